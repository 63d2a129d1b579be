//! What changed of something between two moments.

use std::io::{BufWriter, Write as _, stdout};

use serde::Serialize;
use serde_json::Value;

use crate::{
    Done,
    arguments::{DiffArgs, Format, RowsArgs, Source},
    failure::OK,
    fold::{self, Subject},
    mask::Mask,
    output::{self, Cell, Column, Rows},
    progress::Progress,
    state::{escaped, leaves, plain},
};

/// An operation of a JSON Patch (RFC 6902), and what was there before.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(crate) enum Operation {
    /// Something is there that was not.
    Add { path: String, value: Value },
    /// Something is not there any more.
    Remove {
        path: String,
        #[serde(skip)]
        before: Value,
    },
    /// Something else is there.
    Replace {
        path: String,
        value: Value,
        #[serde(skip)]
        before: Value,
    },
}

const COLUMNS: [Column; 3] = [Column::new("path", 60), Column::new("before", 50), Column::new("after", 50)];

pub(crate) fn run(source: &Source, arguments: &DiffArgs, progress: &Progress) -> Done {
    let subject = Subject::named(&arguments.kind)?;
    let log = source.open()?;
    let mut mask = Mask::new(source)?;
    let id = fold::find(source, &log, subject, &arguments.id, progress)?;
    let mut states = Vec::new();
    for moment in [&arguments.before, &arguments.after] {
        let then = fold::at(source, &log, subject, id, moment, progress)?;
        // What is sealed anew is not shown to have changed, unless it is opened.
        states.push(then.shown(&log, subject, id, &mut mask)?);
    }
    let patch = match states.as_slice() {
        [before, after] => patch(before, after),
        _ => Vec::new(),
    };
    match output::format(arguments.output) {
        Format::Json => {
            let mut out = BufWriter::new(stdout().lock());
            output::json(&mut out, &patch)?;
            out.flush()?;
        }
        Format::Ndjson => {
            let mut out = BufWriter::new(stdout().lock());
            output::ndjson(&mut out, &patch)?;
            out.flush()?;
        }
        format => {
            let rows = RowsArgs {
                output: Some(format),
                columns: Vec::new(),
                no_header: false,
            };
            let mut rows = Rows::new(&rows, &COLUMNS)?;
            for (path, before, after) in lines(source, &patch) {
                let cell = |text: &Option<String>| text.clone().unwrap_or_default();
                rows.row(&[Cell::Text(&path), Cell::Text(&cell(&before)), Cell::Text(&cell(&after))])?;
            }
            rows.finish()?;
        }
    }
    if let Some(remark) = mask.remark() {
        progress.say(remark);
    }
    Ok(OK)
}

type Line = (String, Option<String>, Option<String>);

/// One line for each value that is not what it was.
fn lines(source: &Source, patch: &[Operation]) -> Vec<Line> {
    let below = |path: &str, value: &Value| -> Vec<(String, String)> {
        leaves(value, &source.tz)
            .into_iter()
            .map(|(rest, text)| {
                let whole = format!("{path}{rest}");
                let text = if rest.is_empty() { plain(&whole, value, &source.tz) } else { text };
                (whole, text)
            })
            .collect()
    };
    let mut lines = Vec::new();
    for operation in patch {
        match operation {
            Operation::Add { path, value } => lines.extend(below(path, value).into_iter().map(|(path, text)| (path, None, Some(text)))),
            Operation::Remove { path, before } => {
                lines.extend(below(path, before).into_iter().map(|(path, text)| (path, Some(text), None)));
            }
            Operation::Replace { path, value, before } => {
                let text = |value: &Value| plain(path, value, &source.tz);
                lines.push((path.clone(), Some(text(before)), Some(text(value))));
            }
        }
    }
    lines
}

/// What has to be done to the one to make it the other. Elements of an array are compared by their place.
pub(crate) fn patch(before: &Value, after: &Value) -> Vec<Operation> {
    let mut operations = Vec::new();
    compare(String::new(), before, after, &mut operations);
    operations
}

fn compare(path: String, before: &Value, after: &Value, operations: &mut Vec<Operation>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (name, value) in before {
                let path = format!("{path}/{}", escaped(name));
                match after.get(name) {
                    Some(now) => compare(path, value, now, operations),
                    None => operations.push(Operation::Remove {
                        path,
                        before: value.clone(),
                    }),
                }
            }
            for (name, value) in after.iter().filter(|(name, _)| !before.contains_key(*name)) {
                operations.push(Operation::Add {
                    path: format!("{path}/{}", escaped(name)),
                    value: value.clone(),
                });
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            for (index, (value, now)) in before.iter().zip(after).enumerate() {
                compare(format!("{path}/{index}"), value, now, operations);
            }
            // From the end, so that each index is still right when its turn comes.
            for (index, value) in before.iter().enumerate().skip(after.len()).rev() {
                operations.push(Operation::Remove {
                    path: format!("{path}/{index}"),
                    before: value.clone(),
                });
            }
            for (index, value) in after.iter().enumerate().skip(before.len()) {
                operations.push(Operation::Add {
                    path: format!("{path}/{index}"),
                    value: value.clone(),
                });
            }
        }
        (before, after) if before != after => operations.push(Operation::Replace {
            path,
            value: after.clone(),
            before: before.clone(),
        }),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Carries out a patch, as RFC 6902 says.
    fn apply(mut document: Value, patch: &[Operation]) -> Value {
        for operation in patch {
            let (path, value) = match operation {
                Operation::Add { path, value } | Operation::Replace { path, value, .. } => (path, Some(value.clone())),
                Operation::Remove { path, .. } => (path, None),
            };
            if path.is_empty() {
                document = value.expect("the whole is not removed");
                continue;
            }
            let (parent, name) = path.rsplit_once('/').expect("a pointer");
            let name = name.replace("~1", "/").replace("~0", "~");
            match document.pointer_mut(parent).expect("its parent is there") {
                Value::Object(members) => match value {
                    Some(value) => drop(members.insert(name, value)),
                    None => drop(members.remove(&name).expect("what is removed was there")),
                },
                Value::Array(elements) => {
                    let index: usize = name.parse().expect("an index");
                    match (value, operation) {
                        (Some(value), Operation::Add { .. }) => elements.insert(index, value),
                        (Some(value), _) => elements[index] = value,
                        (None, _) => drop(elements.remove(index)),
                    }
                }
                other => panic!("{other} has no members"),
            }
        }
        document
    }

    #[test]
    fn a_patch_makes_the_one_the_other() {
        let values = [
            json!(null),
            json!(1),
            json!({}),
            json!([]),
            json!({"a": 1, "b/c": {"~": [1, 2, 3]}, "gone": {"x": 1}}),
            json!({"a": "1", "b/c": {"~": [1, 4]}, "new": [null, {"y": 2}]}),
            json!([1, [2, 3], {"a": []}]),
            json!([[2], 1, {"a": [1]}, 4, 5]),
        ];
        for before in &values {
            for after in &values {
                let patch = patch(before, after);
                assert_eq!(&apply(before.clone(), &patch), after, "{before} to {after}: {patch:?}");
                assert_eq!(patch.is_empty(), before == after);
            }
        }
    }

    #[test]
    fn it_is_written_as_the_standard_says() {
        let patch = patch(&json!({"a": 1, "b": 2}), &json!({"a": 3, "c": null}));
        assert_eq!(
            serde_json::to_value(&patch).expect("JSON"),
            json!([
                {"op": "replace", "path": "/a", "value": 3},
                {"op": "remove", "path": "/b"},
                {"op": "add", "path": "/c", "value": null},
            ])
        );
    }
}
