//! Tables, JSON and CSV.

use std::io::{self, Write};

use serde::Serialize;

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

/// Writes CSV (RFC 4180).
pub(crate) fn csv(out: &mut dyn Write, names: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let field = |text: &str| {
        if text.contains(['"', ',', '\n', '\r']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text.to_owned()
        }
    };
    let mut line = |cells: Vec<String>| write!(out, "{}\r\n", cells.join(","));
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

/// A moment in microseconds, as RFC 3339 in UTC.
pub(crate) fn time(micros: i64) -> String {
    jiff::Timestamp::from_microsecond(micros).map_or_else(|_| format!("{micros}us"), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_commas_and_quotes_is_quoted() {
        let mut out = Vec::new();
        csv(&mut out, &["a", "b"], &[vec!["1,5".into(), "say \"so\"".into()]]).expect("written");
        assert_eq!(String::from_utf8(out).expect("text"), "a,b\r\n\"1,5\",\"say \"\"so\"\"\"\r\n");
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
