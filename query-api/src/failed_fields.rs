//! What the library leaves out of an answer.

use async_graphql::{Name, PathSegment, ServerError, Value, indexmap::IndexMap};

/// Puts null where a field failed. The library leaves such a field out, and an object that is left without any is null to it; but a field
/// that was asked for is there (GraphQL, 6.4.4), and clients keep what they know by its fields.
pub(crate) fn fill_in(data: &mut Value, errors: &[ServerError]) {
    for error in errors {
        fill(data, &error.path);
    }
}

fn fill(value: &mut Value, path: &[PathSegment]) {
    let Some((segment, rest)) = path.split_first() else { return };
    match (segment, value) {
        (PathSegment::Field(name), Value::Object(fields)) => fill(fields.entry(Name::new(name)).or_insert(Value::Null), rest),
        (PathSegment::Index(index), Value::List(items)) => {
            if let Some(item) = items.get_mut(*index) {
                fill(item, rest);
            }
        }
        (PathSegment::Field(name), value @ Value::Null) => {
            let mut field = Value::Null;
            fill(&mut field, rest);
            *value = Value::Object(IndexMap::from([(Name::new(name), field)]));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(data: serde_json::Value, paths: &[&[&str]]) -> serde_json::Value {
        let segment = |part: &&str| {
            part.parse()
                .map_or_else(|_| PathSegment::Field((*part).to_owned()), PathSegment::Index)
        };
        let error = |path: &&[&str]| ServerError {
            path: path.iter().map(segment).collect(),
            ..ServerError::new("failed", None)
        };
        let errors: Vec<_> = paths.iter().map(error).collect();
        let mut data = Value::from_json(data).expect("a value");
        fill_in(&mut data, &errors);
        data.into_json().expect("JSON")
    }

    #[test]
    fn a_field_that_failed_is_null() {
        assert_eq!(filled(json!({"me": 1}), &[&["orders"]]), json!({"me": 1, "orders": null}));
        assert_eq!(filled(json!(null), &[&["a"], &["b"]]), json!({"a": null, "b": null}));
        assert_eq!(
            filled(
                json!({"nodes": [{"id": 1}, null]}),
                &[&["nodes", "0", "buyer"], &["nodes", "1", "buyer"]]
            ),
            json!({"nodes": [{"id": 1, "buyer": null}, {"buyer": null}]})
        );
    }

    #[test]
    fn what_is_there_stays_as_it_is() {
        let data = json!({"a": {"b": 1}, "list": [1]});
        for path in [&["a", "b"][..], &["a", "b", "c"], &["list", "9"], &["list", "b"], &["a", "0"], &[]] {
            assert_eq!(filled(data.clone(), &[path]), data, "{path:?}");
        }
    }
}
