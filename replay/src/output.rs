//! Tables, JSON and CSV.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, BufWriter, IsTerminal as _, Write, stdout},
    os::fd::AsFd as _,
};

use serde::Serialize;

use crate::{
    arguments::{Format, RowsArgs},
    failure::Failure,
};

/// Writes a table: the columns as wide as they must be, numbers to the right.
pub(crate) fn table(out: &mut dyn Write, names: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([names[column].chars().count()]).max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..names.len()).map(width).collect();
    let is_number = |cell: &str| !cell.is_empty() && cell.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b',' | b'.' | b'-'));
    let numbers: Vec<_> = (0..names.len())
        .map(|column| !rows.is_empty() && rows.iter().all(|row| row.get(column).is_some_and(|cell| is_number(cell))))
        .collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for ((cell, width), number) in cells.zip(&widths).zip(&numbers) {
            let cell = if *number {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            };
            text.push_str(&cell);
            text.push_str("  ");
        }
        writeln!(out, "{}", text.trim_end())
    };
    line(&mut names.iter().copied())?;
    for row in rows {
        line(&mut row.iter().map(String::as_str))?;
    }
    Ok(())
}

/// Writes CSV: as RFC 4180 has it, but with lines that end as all lines here do, so that a shell may take a field as it is.
pub(crate) fn csv(out: &mut dyn Write, names: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let field = |text: &str| {
        if text.contains(['"', ',', '\n', '\r']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text.to_owned()
        }
    };
    let mut line = |cells: Vec<String>| writeln!(out, "{}", cells.join(","));
    line(names.iter().map(|name| field(name)).collect())?;
    for row in rows {
        line(row.iter().map(|cell| field(cell)).collect())?;
    }
    Ok(())
}

/// Writes one object, for people too.
pub(crate) fn json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// Writes one object a line.
pub(crate) fn ndjson(out: &mut dyn Write, values: &[impl Serialize]) -> io::Result<()> {
    for value in values {
        serde_json::to_writer(&mut *out, value)?;
        writeln!(out)?;
    }
    Ok(())
}

/// A count with its thousands set apart.
pub(crate) fn count(number: impl std::fmt::Display) -> String {
    let text = number.to_string();
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("-", digits));
    let mut grouped = String::with_capacity(text.len() + text.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}")
}

/// How many rows of a table decide how wide its columns are.
const FIRST_PAGE: usize = 200;

/// What is written is kept back until there is so much of it.
const BUFFER: usize = 128 << 10;

/// A column of rows of unbounded number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    /// The most characters of it that a table shows.
    pub(crate) most: usize,
}

impl Column {
    pub(crate) const fn new(name: &'static str, most: usize) -> Self {
        Self { name, most }
    }
}

/// What stands in one column of one row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cell<'a> {
    None,
    Text(&'a str),
    Number(u64),
    /// JSON that is written as it is.
    Json(&'a str),
}

/// Rows that are written as they come, however many there are.
pub(crate) struct Rows {
    out: BufWriter<Box<dyn Write>>,
    format: Format,
    columns: Vec<Column>,
    /// Which of the row's cells, in which order.
    picked: Vec<usize>,
    header: bool,
    /// Of each column in JSON: what stands before its value.
    keys: Vec<String>,
    written: u64,
    /// The first rows of a table, as long as the widths are not known.
    page: Option<Vec<Vec<(String, bool)>>>,
    widths: Vec<(usize, bool)>,
}

impl Rows {
    /// On standard output.
    ///
    /// # Errors
    /// A column is asked for that there is not.
    pub(crate) fn new(arguments: &RowsArgs, columns: &[Column]) -> Result<Self, Failure> {
        Self::on(standard_output(), arguments.format(), arguments, columns)
    }

    fn on(out: Box<dyn Write>, format: Format, arguments: &RowsArgs, columns: &[Column]) -> Result<Self, Failure> {
        let picked = if arguments.columns.is_empty() {
            (0..columns.len()).collect()
        } else {
            let place = |name: &String| {
                columns.iter().position(|column| column.name == name).ok_or_else(|| {
                    let names: Vec<_> = columns.iter().map(|column| column.name).collect();
                    Failure::input(format_args!("there is no column {name:?}; there are {}", names.join(", ")))
                })
            };
            arguments.columns.iter().map(place).collect::<Result<Vec<_>, _>>()?
        };
        let columns: Vec<Column> = picked.iter().map(|at| columns[*at]).collect();
        let keys = columns.iter().enumerate().map(|(at, column)| {
            let before = if at == 0 { '{' } else { ',' };
            format!("{before}\"{}\":", column.name)
        });
        Ok(Self {
            out: BufWriter::with_capacity(BUFFER, out),
            format,
            keys: keys.collect(),
            widths: columns.iter().map(|_| (0, false)).collect(),
            columns,
            picked,
            header: !arguments.no_header,
            written: 0,
            page: (format == Format::Table).then(Vec::new),
        })
    }

    /// Whether this cell of a row is shown at all.
    pub(crate) fn wants(&self, cell: usize) -> bool {
        self.picked.contains(&cell)
    }

    /// How many rows were given.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Writes one row, with a cell for every column that there is.
    ///
    /// # Errors
    /// Standard output does not take it.
    pub(crate) fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Failure> {
        self.written += 1;
        match self.format {
            Format::Ndjson => self.object(cells, b"\n")?,
            Format::Json => {
                self.out.write_all(if self.written == 1 { b"[\n  " } else { b",\n  " })?;
                self.object(cells, b"")?;
            }
            Format::Csv => {
                self.csv_header()?;
                self.csv_row(cells)?;
            }
            Format::Table => self.table_row(cells)?,
        }
        Ok(())
    }

    fn object(&mut self, cells: &[Cell<'_>], end: &[u8]) -> io::Result<()> {
        for (key, at) in self.keys.iter().zip(&self.picked) {
            self.out.write_all(key.as_bytes())?;
            match cells.get(*at).copied().unwrap_or(Cell::None) {
                Cell::None => self.out.write_all(b"null")?,
                Cell::Text(text) => json_text(&mut self.out, text)?,
                Cell::Number(number) => self.out.write_all(itoa::Buffer::new().format(number).as_bytes())?,
                Cell::Json(json) => self.out.write_all(json.as_bytes())?,
            }
        }
        self.out.write_all(b"}")?;
        self.out.write_all(end)
    }

    fn csv_header(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.header) {
            let names: Vec<_> = self.columns.iter().map(|column| column.name).collect();
            writeln!(self.out, "{}", names.join(","))?;
        }
        Ok(())
    }

    fn csv_row(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        for (place, at) in self.picked.iter().enumerate() {
            if place > 0 {
                self.out.write_all(b",")?;
            }
            match cells.get(*at).copied().unwrap_or(Cell::None) {
                Cell::None => {}
                Cell::Text(text) | Cell::Json(text) => csv_field(&mut self.out, text)?,
                Cell::Number(number) => self.out.write_all(itoa::Buffer::new().format(number).as_bytes())?,
            }
        }
        self.out.write_all(b"\n")
    }

    fn table_row(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        let row = self.picked.iter().zip(&self.columns).map(|(at, column)| {
            let (text, number) = match cells.get(*at).copied().unwrap_or(Cell::None) {
                Cell::None => (String::new(), false),
                Cell::Text(text) | Cell::Json(text) => (cut(text, column.most), false),
                Cell::Number(number) => (count(number), true),
            };
            (text, number)
        });
        let row: Vec<_> = row.collect();
        match &mut self.page {
            Some(page) => {
                page.push(row);
                if page.len() >= FIRST_PAGE {
                    self.settle_widths()?;
                }
                Ok(())
            }
            None => table_line(&mut self.out, &self.widths, &row),
        }
    }

    /// The first page decides how wide the columns are; what comes later and is wider stands out.
    fn settle_widths(&mut self) -> io::Result<()> {
        let Some(page) = self.page.take() else { return Ok(()) };
        for (at, (width, right)) in self.widths.iter_mut().enumerate() {
            let cells = page.iter().filter_map(|row| row.get(at));
            let widest = cells.clone().map(|(text, _)| text.chars().count()).max().unwrap_or_default();
            *right = cells.clone().any(|(_, number)| *number);
            let name = if self.header { self.columns[at].name.len() } else { 0 };
            *width = widest.max(name);
        }
        if std::mem::take(&mut self.header) {
            let names: Vec<_> = self.columns.iter().map(|column| (column.name.to_owned(), false)).collect();
            table_line(&mut self.out, &self.widths, &names)?;
        }
        page.iter().try_for_each(|row| table_line(&mut self.out, &self.widths, row))
    }

    /// Writes what was kept back, for somebody who waits for it.
    ///
    /// # Errors
    /// Standard output does not take it.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        if self.page.as_ref().is_some_and(|page| !page.is_empty()) {
            self.settle_widths()?;
        }
        Ok(self.out.flush()?)
    }

    /// Ends what was begun, so that what is there is whole however it came to end.
    ///
    /// # Errors
    /// Standard output does not take it.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        match self.format {
            Format::Json if self.written == 0 => self.out.write_all(b"[]\n")?,
            Format::Json => self.out.write_all(b"\n]\n")?,
            Format::Csv => self.csv_header()?,
            Format::Table => self.settle_widths()?,
            Format::Ndjson => {}
        }
        Ok(self.out.flush()?)
    }
}

impl RowsArgs {
    /// The one that is asked for, or what suits who reads it.
    pub(crate) fn format(&self) -> Format {
        format(self.output)
    }
}

/// The one that is asked for, or a table on a terminal and ndjson elsewhere.
pub(crate) fn format(asked: Option<Format>) -> Format {
    asked.unwrap_or_else(|| if stdout().is_terminal() { Format::Table } else { Format::Ndjson })
}

/// Not line by line, as Rust's own standard output is written.
fn standard_output() -> Box<dyn Write> {
    match stdout().as_fd().try_clone_to_owned() {
        Ok(descriptor) => Box::new(File::from(descriptor)),
        Err(_) => Box::new(stdout()),
    }
}

fn table_line(out: &mut dyn Write, widths: &[(usize, bool)], cells: &[(String, bool)]) -> io::Result<()> {
    let mut line = String::new();
    for ((text, _), (width, right)) in cells.iter().zip(widths) {
        let width = *width;
        // Writing into a String cannot fail.
        let _ = if *right {
            write!(line, "{text:>width$}  ")
        } else {
            write!(line, "{text:<width$}  ")
        };
    }
    writeln!(out, "{}", line.trim_end())
}

/// At most so many characters, and none that a terminal would obey.
fn cut(text: &str, most: usize) -> String {
    let mut characters = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
    let mut shown: String = characters.by_ref().take(most).collect();
    if characters.next().is_some() {
        shown.pop();
        shown.push('…');
    }
    shown
}

/// A JSON string. Ids and names need no look at each character.
fn json_text(out: &mut dyn Write, text: &str) -> io::Result<()> {
    // Without an early end, so that many bytes are looked at in one go.
    let others = text
        .bytes()
        .filter(|byte| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\'))
        .count();
    if others == 0 {
        out.write_all(b"\"")?;
        out.write_all(text.as_bytes())?;
        out.write_all(b"\"")
    } else {
        serde_json::to_writer(out, text).map_err(io::Error::from)
    }
}

fn csv_field(out: &mut dyn Write, text: &str) -> io::Result<()> {
    let bytes = text.as_bytes();
    if memchr::memchr3(b'"', b',', b'\n', bytes).is_none() && memchr::memchr(b'\r', bytes).is_none() {
        return out.write_all(bytes);
    }
    out.write_all(b"\"")?;
    for (at, part) in text.split('"').enumerate() {
        if at > 0 {
            out.write_all(b"\"\"")?;
        }
        out.write_all(part.as_bytes())?;
    }
    out.write_all(b"\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::{cell::RefCell, rc::Rc};

    #[derive(Clone, Default)]
    struct Paper(Rc<RefCell<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const COLUMNS: [Column; 3] = [Column::new("position", 20), Column::new("who", 6), Column::new("payload", 12)];

    fn written(format: Format, columns: &[&str], no_header: bool, rows: &[[Cell<'_>; 3]]) -> String {
        let paper = Paper::default();
        let arguments = RowsArgs {
            output: Some(format),
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            no_header,
        };
        let mut out = Rows::on(Box::new(paper.clone()), format, &arguments, &COLUMNS).expect("columns that there are");
        for row in rows {
            out.row(row).expect("written");
        }
        out.finish().expect("written");
        let bytes = paper.0.borrow().clone();
        String::from_utf8(bytes).expect("text")
    }

    const ROWS: [[Cell<'static>; 3]; 2] = [
        [Cell::Number(1_234), Cell::Text("민지 \"x\""), Cell::Json("{\"a\":[1,2,3,4]}")],
        [Cell::Number(5), Cell::None, Cell::Json("{}")],
    ];

    #[test]
    fn rows_are_the_same_in_every_format() {
        assert_eq!(
            written(Format::Ndjson, &[], false, &ROWS),
            "{\"position\":1234,\"who\":\"민지 \\\"x\\\"\",\"payload\":{\"a\":[1,2,3,4]}}\n{\"position\":5,\"who\":null,\"payload\":{}}\n"
        );
        for rows in [&ROWS[..], &ROWS[..1], &[]] {
            let json: serde_json::Value = serde_json::from_str(&written(Format::Json, &[], false, rows)).expect("JSON");
            assert_eq!(json.as_array().map(Vec::len), Some(rows.len()));
        }
        assert_eq!(
            written(Format::Csv, &["payload", "who"], false, &ROWS),
            "payload,who\n\"{\"\"a\"\":[1,2,3,4]}\",\"민지 \"\"x\"\"\"\n{},\n"
        );
        assert_eq!(written(Format::Csv, &["position"], false, &[]), "position\n");
        assert_eq!(
            written(Format::Table, &[], false, &ROWS),
            "position  who     payload\n   1,234  민지 \"x\"  {\"a\":[1,2,3…\n       5          {}\n"
        );
        assert_eq!(written(Format::Table, &["position"], true, &ROWS), "1,234\n    5\n");
    }

    #[test]
    fn a_table_goes_on_with_the_widths_of_its_first_page() {
        let rows: Vec<_> = (0..=FIRST_PAGE as u64 + 1)
            .map(|number| {
                [
                    Cell::Number(if number > 200 { 1_000_000 } else { number }),
                    Cell::Text("a\u{1b}[31m"),
                    Cell::None,
                ]
            })
            .collect();
        let table = written(Format::Table, &["position", "who"], true, &rows);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), rows.len());
        assert_eq!((lines[0], lines[199]), ("  0  a\u{fffd}[31m", "199  a\u{fffd}[31m"));
        assert_eq!(lines[201], "1,000,000  a\u{fffd}[31m");
    }

    #[test]
    fn a_column_that_is_not_there_is_refused_with_those_that_are() {
        let arguments = RowsArgs {
            output: None,
            columns: vec!["positon".into()],
            no_header: false,
        };
        let refused = Rows::on(Box::new(Paper::default()), Format::Csv, &arguments, &COLUMNS)
            .err()
            .expect("refused");
        assert!(refused.line().contains("position, who, payload"), "{}", refused.line());
    }

    #[test]
    fn what_has_commas_and_quotes_is_quoted() {
        let mut out = Vec::new();
        csv(&mut out, &["a", "b"], &[vec!["1,5".into(), "say \"so\"".into()]]).expect("written");
        assert_eq!(String::from_utf8(out).expect("text"), "a,b\n\"1,5\",\"say \"\"so\"\"\"\n");
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be_and_numbers_stand_to_the_right() {
        let mut out = Vec::new();
        table(
            &mut out,
            &["name", "n"],
            &[vec!["a".into(), "1".into()], vec!["주문".into(), "1,000".into()]],
        )
        .expect("written");
        assert_eq!(String::from_utf8(out).expect("text"), "name      n\na         1\n주문    1,000\n");
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(
            [count(0), count(999), count(1_000), count(-1_234_567)],
            ["0", "999", "1,000", "-1,234,567"]
        );
    }
}
