//! Bounds on a question, checked before anything is done that takes time in proportion to what it asks for.
//!
//! Fragments make a short document long: ten that each spread the next one twice stand for a thousand fields. So they are counted by
//! what they stand for, each once, and their nesting is bounded before any recursion follows it.

use std::collections::HashMap;

use async_graphql::{
    Name, Positioned, ServerError,
    parser::{
        parse_query,
        types::{ExecutableDocument, FragmentDefinition, Selection, SelectionSet},
    },
};

use crate::Limits;

/// Brackets within brackets that the parser is given: it recurses on them.
const MOST_BRACKETS: usize = 64;

/// Selection sets within selection sets, fragments put in place; async-graphql allows 32.
const MOST_NESTED: usize = 30;

/// Fields below fields in a question about the schema; the customary one of GraphiQL has 15.
const INTROSPECTION_DEPTH: usize = 20;

/// Questions about the schema in one document.
const MOST_INTROSPECTIONS: usize = 4;

/// What a part of a document stands for, its fragments put in place.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    fields: usize,
    /// Of these, those that are not below others.
    top: usize,
    aliases: usize,
    directives: usize,
    depth: usize,
    introspection_depth: usize,
    introspections: usize,
}

impl Size {
    fn add(&mut self, other: Self) {
        self.fields = self.fields.saturating_add(other.fields);
        self.top = self.top.saturating_add(other.top);
        self.aliases = self.aliases.saturating_add(other.aliases);
        self.directives = self.directives.saturating_add(other.directives);
        self.introspections = self.introspections.saturating_add(other.introspections);
        self.depth = self.depth.max(other.depth);
        self.introspection_depth = self.introspection_depth.max(other.introspection_depth);
    }
}

/// Parses a document whose size is within the limits.
pub(crate) fn parse(query: &str, limits: &Limits, introspection: bool) -> Result<ExecutableDocument, ServerError> {
    if brackets(query) > MOST_BRACKETS {
        return Err(refuse(format!("a question has at most {MOST_BRACKETS} brackets within brackets")));
    }
    let document = parse_query(query).map_err(ServerError::from)?;
    let mut measure = Measure {
        fragments: &document.fragments,
        known: HashMap::new(),
        written: 0,
    };
    let mut all = Size::default();
    for (_, operation) in document.operations.iter() {
        let size = measure.selections(&operation.node.selection_set.node, 0)?;
        at_most("fields of the query itself", size.top, limits.root_fields)?;
        all.add(size);
        all.directives = all.directives.saturating_add(operation.node.directives.len());
    }
    for name in document.fragments.keys() {
        // Also those that nothing spreads: the validation reads them too.
        measure.fragment(name, 0)?;
    }
    at_most("fields", all.fields.max(measure.written), limits.fields)?;
    at_most("aliases", all.aliases, limits.aliases)?;
    at_most("directives", all.directives, limits.directives)?;
    at_most("fields below fields", all.depth, limits.depth)?;
    at_most("fields below fields about the schema", all.introspection_depth, INTROSPECTION_DEPTH)?;
    at_most("fields about the schema", all.introspections, MOST_INTROSPECTIONS)?;
    if all.introspections > 0 && !introspection {
        return Err(refuse("this shop's schema does not tell about itself".to_owned()));
    }
    Ok(document)
}

fn refuse(message: String) -> ServerError {
    let mut error = ServerError::new(message, None);
    error.extensions.get_or_insert_default().set("code", "QUESTION_TOO_LARGE");
    error
}

fn at_most(what: &str, count: usize, most: usize) -> Result<(), ServerError> {
    if count <= most {
        Ok(())
    } else {
        Err(refuse(format!("a question has at most {most} {what}")))
    }
}

struct Measure<'a> {
    fragments: &'a HashMap<Name, Positioned<FragmentDefinition>>,
    /// None while it is being measured: to meet it then is a cycle.
    known: HashMap<&'a str, Option<Size>>,
    /// Fields of the document as it is written.
    written: usize,
}

impl<'a> Measure<'a> {
    fn selections(&mut self, selections: &'a SelectionSet, nested: usize) -> Result<Size, ServerError> {
        if nested > MOST_NESTED {
            return Err(refuse(format!("a question has at most {MOST_NESTED} selections within selections")));
        }
        let mut size = Size::default();
        for selection in &selections.items {
            size.directives = size.directives.saturating_add(selection.node.directives().len());
            match &selection.node {
                Selection::Field(field) => {
                    let mut below = self.selections(&field.node.selection_set.node, nested + 1)?;
                    self.written += 1;
                    below.fields = below.fields.saturating_add(1);
                    below.top = 1;
                    below.aliases = below.aliases.saturating_add(usize::from(field.node.alias.is_some()));
                    if matches!(field.node.name.node.as_str(), "__schema" | "__type") {
                        below.introspection_depth = below.introspection_depth.max(below.depth + 1);
                        below.depth = 0;
                        below.introspections = below.introspections.saturating_add(1);
                    } else {
                        below.depth += 1;
                    }
                    size.add(below);
                }
                Selection::FragmentSpread(spread) => size.add(self.fragment(&spread.node.fragment_name.node, nested + 1)?),
                Selection::InlineFragment(inline) => size.add(self.selections(&inline.node.selection_set.node, nested + 1)?),
            }
        }
        Ok(size)
    }

    fn fragment(&mut self, name: &str, nested: usize) -> Result<Size, ServerError> {
        // One that is not there is the validation's to report.
        let Some((name, fragment)) = self.fragments.get_key_value(name) else {
            return Ok(Size::default());
        };
        match self.known.get(name.as_str()) {
            Some(Some(size)) => return Ok(*size),
            Some(None) => return Err(refuse(format!("the fragment `{name}` is a part of itself"))),
            None => {}
        }
        self.known.insert(name.as_str(), None);
        let size = self.selections(&fragment.node.selection_set.node, nested)?;
        self.known.insert(name.as_str(), Some(size));
        Ok(size)
    }
}

/// How deep brackets stand within brackets, outside of strings and comments.
fn brackets(query: &str) -> usize {
    let mut rest = query.as_bytes();
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    while let Some((&byte, after)) = rest.split_first() {
        rest = match byte {
            b'#' => skip_to(after, |byte| matches!(byte, b'\n' | b'\r')),
            b'"' if after.starts_with(b"\"\"") => skip_block(&after[2..]),
            b'"' => skip_string(after),
            b'{' | b'[' | b'(' => {
                depth += 1;
                deepest = deepest.max(depth);
                after
            }
            b'}' | b']' | b')' => {
                depth = depth.saturating_sub(1);
                after
            }
            _ => after,
        };
    }
    deepest
}

fn skip_to(text: &[u8], end: impl Fn(u8) -> bool) -> &[u8] {
    let length = text.iter().position(|byte| end(*byte)).unwrap_or(text.len());
    &text[length..]
}

fn skip_string(mut text: &[u8]) -> &[u8] {
    while let Some((&byte, after)) = text.split_first() {
        match byte {
            b'\\' => text = after.get(1..).unwrap_or_default(),
            // A string does not go over a line's end: the parser refuses it, and what follows is counted.
            b'"' | b'\n' | b'\r' => return after,
            _ => text = after,
        }
    }
    text
}

fn skip_block(mut text: &[u8]) -> &[u8] {
    while !text.is_empty() {
        if let Some(after) = text.strip_prefix(b"\\\"\"\"") {
            text = after;
        } else if let Some(after) = text.strip_prefix(b"\"\"\"") {
            return after;
        } else {
            text = &text[1..];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(query: &str) -> String {
        parse(query, &Limits::default(), true).expect_err("it is too large").message
    }

    #[test]
    fn a_customary_question_is_within_the_limits() {
        let query = "query Page($first: Int) { orders(first: $first) { ...Page } } fragment Page on OrderConnection { edges { node { id total { amount } } } }";
        assert!(parse(query, &Limits::default(), false).is_ok());
    }

    #[test]
    fn fragments_count_by_what_they_stand_for() {
        let doubling: Vec<_> = (0..25)
            .map(|n| format!("fragment F{n} on Query {{ ...F{next} ...F{next} }} ", next = n + 1))
            .collect();
        let query = format!("{{ ...F0 }} {} fragment F25 on Query {{ me {{ id }} }}", doubling.concat());
        assert!(refused(&query).contains("fields"), "{}", refused(&query));
    }

    #[test]
    fn a_fragment_that_is_a_part_of_itself_is_refused() {
        assert!(refused("{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }").contains("part of itself"));
        assert!(refused("{ me { id } } fragment A on Query { ...A }").contains("part of itself"));
    }

    #[test]
    fn a_long_chain_of_fragments_is_not_followed() {
        let chain: Vec<_> = (0..5_000).map(|n| format!("fragment F{n} on Query {{ ...F{} }} ", n + 1)).collect();
        let query = format!("{{ ...F0 }} {} fragment F5000 on Query {{ me {{ id }} }}", chain.concat());
        assert!(refused(&query).contains("selections within selections"));
    }

    #[test]
    fn brackets_are_counted_outside_of_strings_and_comments() {
        assert_eq!(brackets("{ a(b: [1, {c: 2}]) }"), 4);
        assert_eq!(brackets(r#"{ a(b: "[[[[\"[[[[") } # [[[[["#), 2);
        assert_eq!(brackets("{ a(b: \"\"\"[[ \" [[ \\\"\"\" [[ \"\"\") }"), 2);
        assert_eq!(brackets("\"\n{{{"), 3);
        for wild in ["{", "[", "{a(b:[", "(", "{a{", "{\"", "\"\"\""] {
            let _ = parse(&wild.repeat(50_000), &Limits::default(), true);
        }
        assert!(refused(&"{a".repeat(80_000)).contains("brackets"));
    }
}
