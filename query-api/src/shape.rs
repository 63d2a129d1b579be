//! The shape of an answer is that of its question: every field that was asked for, in the order in which it was.

use std::collections::HashMap;

use async_graphql::{
    Name, PathSegment, Positioned, ServerError, Value,
    indexmap::IndexMap,
    parser::types::{DocumentOperations, ExecutableDocument, FragmentDefinition, Selection, SelectionSet},
};

type Fragments = HashMap<Name, Positioned<FragmentDefinition>>;

/// The fields of a question by the names that they have in its answer, in its order, and theirs.
#[derive(Debug, Default)]
pub(crate) struct Shape(IndexMap<Name, Shape>);

impl Shape {
    /// Of the operation that is asked. The document is within the limits, so its fragments end.
    pub(crate) fn of(document: &ExecutableDocument, operation: Option<&str>) -> Self {
        let operation = match (&document.operations, operation) {
            (DocumentOperations::Single(single), _) => Some(single),
            (DocumentOperations::Multiple(several), Some(name)) => several.get(name),
            (DocumentOperations::Multiple(_), None) => None,
        };
        let mut shape = Self::default();
        if let Some(operation) = operation {
            shape.add(&operation.node.selection_set.node, &document.fragments);
        }
        shape
    }

    fn add(&mut self, selections: &SelectionSet, fragments: &Fragments) {
        for selection in &selections.items {
            match &selection.node {
                Selection::Field(field) => {
                    let name = field.node.response_key().node.clone();
                    self.0.entry(name).or_default().add(&field.node.selection_set.node, fragments);
                }
                Selection::InlineFragment(inline) => self.add(&inline.node.selection_set.node, fragments),
                Selection::FragmentSpread(spread) => {
                    if let Some(fragment) = fragments.get(&spread.node.fragment_name.node) {
                        self.add(&fragment.node.selection_set.node, fragments);
                    }
                }
            }
        }
    }

    /// Puts an answer's fields in order: the library lists them as they were resolved (GraphQL, 7.2.2).
    pub(crate) fn arrange(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                let place = |name: &Name| self.0.get_index_of(name).unwrap_or(usize::MAX);
                fields.sort_by(|one, _, other, _| place(one).cmp(&place(other)));
                for (name, value) in fields {
                    if let Some(shape) = self.0.get(name) {
                        shape.arrange(value);
                    }
                }
            }
            Value::List(items) => items.iter_mut().for_each(|item| self.arrange(item)),
            _ => {}
        }
    }
}

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
    fn an_answer_keeps_the_order_of_its_question() {
        let question =
            "query Other { z } query Mine { list { c ...Part } a: x ... on Query { b { y x } } } fragment Part on Item { b a c }";
        let document = async_graphql::parser::parse_query(question).expect("a document");
        let data = json!({"b": {"x": 1, "y": 2}, "a": 3, "list": [{"a": 1, "b": 2, "c": 3}, null], "?": 0});
        let mut data = Value::from_json(data).expect("a value");
        Shape::of(&document, Some("Mine")).arrange(&mut data);
        assert_eq!(
            serde_json::to_string(&data).expect("JSON"),
            r#"{"list":[{"c":3,"b":2,"a":1},null],"a":3,"b":{"y":2,"x":1},"?":0}"#
        );
        for unknown in [None, Some("None")] {
            assert!(Shape::of(&document, unknown).0.is_empty());
        }
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
