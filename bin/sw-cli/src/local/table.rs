//! Tables: whole where programs read; on a terminal they lose the columns that matter least, then names are cut in
//! their middle (ux.md §1.3).

use super::fold::width;
use super::terminal::shorten;

/// Blanks between two columns.
const GAP: usize = 2;
/// A name is never cut to less.
const NAME_MIN: usize = 8;

/// One column.
#[derive(Clone, Copy, Debug)]
pub struct Column<'a> {
    pub title: &'a str,
    /// The higher, the sooner it is left out; columns of rank 0 stay.
    pub rank: usize,
}

/// Where a table is shown.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Columns of the terminal; none where nothing may be cut.
    pub columns: Option<usize>,
    /// Blanks before each line.
    pub indent: usize,
    pub has_unicode: bool,
}

/// The lines of a table, head first. The first column of rank 0 holds the names.
pub fn table(columns: &[Column<'_>], rows: &[Vec<String>], room: Room) -> Vec<String> {
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    let widest = |at: usize| {
        let cells = rows.iter().map(|row| row.get(at).map_or(0, |cell| width(cell)));
        cells.max().unwrap_or(0).max(columns.get(at).map_or(0, |column| column.title.len()))
    };
    let mut widths: Vec<usize> = (0..columns.len()).map(widest).collect();
    let needed = |shown: &[usize], widths: &[usize]| -> usize {
        let cells: usize = shown.iter().filter_map(|at| widths.get(*at)).sum();
        room.indent + cells + GAP * shown.len().saturating_sub(1)
    };
    let rank = |at: &usize| columns.get(*at).map_or(0, |column| column.rank);
    let limit = room.columns.unwrap_or(usize::MAX);
    while needed(&shown, &widths) > limit
        && let Some(least) = shown.iter().copied().filter(|at| rank(at) > 0).max_by_key(rank)
    {
        shown.retain(|at| *at != least);
    }
    let names = shown.iter().copied().find(|at| rank(at) == 0);
    let excess = needed(&shown, &widths).saturating_sub(limit);
    if let Some(name_width) = names.and_then(|at| widths.get_mut(at)) {
        *name_width = name_width.saturating_sub(excess).max(NAME_MIN.min(*name_width));
    }
    let line = |cell_of: &dyn Fn(usize) -> String| {
        let mut text = " ".repeat(room.indent);
        for at in &shown {
            let cell = cell_of(*at);
            let blanks = widths.get(*at).copied().unwrap_or_default().saturating_sub(width(&cell)) + GAP;
            text.push_str(&cell);
            text.push_str(&" ".repeat(blanks));
        }
        text.trim_end().to_owned()
    };
    let mut lines =
        vec![line(&|at| columns.get(at).map_or_else(String::new, |column| column.title.to_owned()))];
    for row in rows {
        lines.push(line(&|at| {
            let cell = row.get(at).cloned().unwrap_or_default();
            match widths.get(at) {
                Some(most) if Some(at) == names => shorten(&cell, *most, room.has_unicode),
                Some(_) | None => cell,
            }
        }));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(columns: usize) -> Vec<String> {
        let heads = [("MACHINE", 0), ("ADDRESS", 2), ("PERSON", 3), ("PATH", 0), ("DELAY", 1)];
        let heads = heads.map(|(title, rank)| Column { title, rank });
        let row =
            ["a-very-long-name-of-a-machine", "100.84.12.4", "tagged", "relay  hard NAT there", "48 ms"];
        let rows = [row.map(str::to_owned).to_vec()];
        table(&heads, &rows, Room { columns: Some(columns), indent: 2, has_unicode: false })
    }

    #[test]
    fn the_least_columns_go_first_and_machine_and_path_stay() {
        let heads = |columns| {
            let line = shown(columns).swap_remove(0);
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(heads(120), "MACHINE ADDRESS PERSON PATH DELAY");
        assert_eq!(heads(80), "MACHINE ADDRESS PATH DELAY");
        assert_eq!(heads(62), "MACHINE PATH DELAY");
        assert_eq!(heads(40), "MACHINE PATH");
        assert_eq!(shown(40)[1], "  a-very-lon~hine  relay  hard NAT there");
        assert!(shown(40).iter().all(|line| line.len() <= 40), "{:?}", shown(40));
    }

    #[test]
    fn programs_get_everything() {
        let room = Room { columns: None, indent: 0, has_unicode: false };
        let lines = table(&[Column { title: "NAME", rank: 0 }], &[vec!["x".repeat(300)]], room);
        assert_eq!(lines[1].len(), 300);
    }
}
