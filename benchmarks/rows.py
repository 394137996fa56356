"""The one table of rows: a new one is a file of its family and an entry here."""

from benchmarks import bank, convolution, long_record, multi_input, neural_cde, solver, startup, streaming, structured

ROWS = {
    row.name: row
    for row in (
        multi_input.ROW,
        bank.ROW,
        bank.EAGER,
        *structured.ROWS,
        solver.ROW,
        convolution.ROW,
        long_record.ROW,
        streaming.ROW,
        startup.ROW,
        neural_cde.ROW,
    )
}
