//! Aligned columns, and numbers as people read them.

use super::exit::Failure;
use super::output::Output;
use super::style;

/// Spaces between two columns.
const GAP: usize = 2;

/// Rows under a head, each column as wide as its widest cell.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    rows: Vec<Row<N>>,
}

/// Cells, and lines below them that are no part of any column.
#[derive(Debug)]
struct Row<const N: usize> {
    cells: [String; N],
    below: Vec<String>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(head: [&str; N]) -> Self {
        Self { rows: vec![Row { cells: head.map(str::to_owned), below: Vec::new() }] }
    }

    pub(super) fn row(&mut self, cells: [String; N]) {
        self.row_over(cells, Vec::new());
    }

    /// A row with lines below it.
    pub(super) fn row_over(&mut self, cells: [String; N], below: Vec<String>) {
        self.rows.push(Row { cells, below });
    }

    /// Writes it, its head in the style of heads.
    pub(super) fn show(&self, out: &mut Output) -> Result<(), Failure> {
        let lines = self.lines();
        let Some((head, rows)) = lines.split_first() else { return Ok(()) };
        out.styled(head, style::HEAD)?;
        rows.iter().try_for_each(|row| out.line(row))
    }

    fn lines(&self) -> Vec<String> {
        let widths: [usize; N] = std::array::from_fn(|column| {
            self.rows.iter().map(|row| row.cells[column].chars().count()).max().unwrap_or(0)
        });
        let lines = self.rows.iter().flat_map(|Row { cells, below }| {
            std::iter::once(aligned(cells, &widths)).chain(below.iter().cloned())
        });
        lines.collect()
    }
}

fn aligned(row: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in row.iter().zip(widths) {
        line.push_str(cell);
        line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + GAP));
    }
    line.truncate(line.trim_end().len());
    line
}

/// Binary units with one decimal: `4.3 GiB`.
pub(super) fn size(bytes: u64) -> String {
    scaled(bytes, 1024, &["B", "KiB", "MiB", "GiB", "TiB"]).replace(".0 B", " B")
}

/// Decimal units with one decimal: `8.0B` weights.
pub(super) fn count(number: u64) -> String {
    match number {
        0..1000 => number.to_string(),
        _ => scaled(number, 1000, &["", "K", "M", "B", "T"]).replace(' ', ""),
    }
}

/// Milliseconds as people read them: `850 ms`, `3.2 s`, `12 s`, `2 min`.
pub(super) fn millis(ms: f64) -> String {
    match ms {
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms if ms < 10_000.0 => format!("{:.1} s", ms / 1000.0),
        ms if ms < 120_000.0 => format!("{:.0} s", ms / 1000.0),
        ms => format!("{:.0} min", ms / 60_000.0),
    }
}

/// One decimal, rounded down, in whole numbers: what is shown as full is full.
fn scaled(number: u64, base: u64, units: &[&str]) -> String {
    let (mut unit, mut divisor) = (0, 1_u64);
    while number / divisor >= base && unit + 1 < units.len() {
        unit += 1;
        divisor *= base;
    }
    let tenths = u128::from(number % divisor) * 10 / u128::from(divisor);
    format!("{}.{tenths} {}", number / divisor, units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["NAME", "X"]);
        table.row(["é".to_owned(), "1".to_owned()]);
        table.row(["longer".to_owned(), String::new()]);
        table.row_over(["a".to_owned(), "2".to_owned()], vec!["  below all columns".to_owned()]);
        assert_eq!(table.lines(), ["NAME    X", "é       1", "longer", "a       2", "  below all columns"]);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(u64::MAX), "16777215.9 TiB");
        assert_eq!([850.4, 3210.0, 12_400.0, 150_000.0].map(millis), ["850 ms", "3.2 s", "12 s", "2 min"]);
        assert_eq!(count(999), "999");
        assert_eq!(count(8_030_000_000), "8.0B");
    }
}
