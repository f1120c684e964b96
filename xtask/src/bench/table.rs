// SPDX-License-Identifier: Apache-2.0
//! A table of figures, each beside its ratio to the first column's.

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Time.
    Milliseconds,
    /// Memory.
    Kib,
    /// How often something is done.
    PerSecond,
}

/// A number, or none if nothing was measured.
pub(super) type Figure = Option<f64>;

/// The table in the making.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<String>,
    rows: Vec<(String, Unit, Vec<Figure>)>,
}

impl Table {
    pub(super) fn new<'a>(columns: impl Iterator<Item = &'a str>) -> Self {
        Self { columns: columns.map(str::to_owned).collect(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, name: &str, unit: Unit, figures: impl Iterator<Item = Figure>) {
        self.rows.push((name.to_owned(), unit, figures.collect()));
    }

    pub(super) fn render(&self) -> String {
        let mut text = format!("{:<40}", "");
        for column in &self.columns {
            text = format!("{text}{column:>22}");
        }
        text.push('\n');
        for (name, unit, figures) in &self.rows {
            text = format!("{text}{name:<40}{}\n", cells(*unit, figures));
        }
        text
    }
}

fn cells(unit: Unit, figures: &[Figure]) -> String {
    let base = figures.first().copied().flatten();
    let cells = figures.iter().enumerate().map(|(index, figure)| {
        let ratio = figure.zip(base).filter(|(_, base)| index > 0 && *base > 0.0);
        let ratio = ratio.map(|(figure, base)| format!(" ({:.2})", figure / base));
        let cell = format!("{}{}", shown(unit, *figure), ratio.unwrap_or_default());
        format!("{cell:>22}")
    });
    cells.collect::<Vec<_>>().concat()
}

fn shown(unit: Unit, figure: Figure) -> String {
    match (unit, figure) {
        (_, None) => "-".to_owned(),
        (Unit::Milliseconds, Some(time)) => format!("{time:.1} ms"),
        (Unit::PerSecond, Some(rate)) => format!("{rate:.0} /s"),
        (Unit::Kib, Some(size)) => format!("{:.2} MiB", size / 1024.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_beside_their_ratio() {
        let mut table = Table::new(["Go", "ours"].into_iter());
        table.row("boot", Unit::Milliseconds, [Some(40.0), Some(10.0)].into_iter());
        table.row("daemon", Unit::Kib, [Some(2048.0), None].into_iter());
        let text = table.render();
        assert!(text.contains("40.0 ms") && text.contains("10.0 ms (0.25)"), "{text}");
        assert!(text.contains("2.00 MiB") && text.lines().all(|line| line.len() == 84), "{text}");
    }
}
