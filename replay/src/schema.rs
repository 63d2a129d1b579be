//! The shape of each event type, as it is in the log.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::{BufWriter, Write as _, stdout},
    ops::ControlFlow,
};

use event_store::{EventRef, LogPosition};
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, json};

use crate::{
    Done,
    arguments::{Format, SchemaArgs, Source},
    failure::{Failure, OK},
    mask, output,
    output::{Cell, Column, Rows},
    progress::Progress,
    source::Wanted,
};

/// More types are left out: a log of ours has less than a hundred.
const MOST_TYPES: usize = 10_000;

/// More members of one type are counted together, so that ids as names do not fill the memory.
const MOST_MEMBERS: usize = 2_000;

/// Of one type.
const MOST_VERSIONS: usize = 100;

/// How many characters of an example are kept.
const EXAMPLE: usize = 60;

const COLUMNS: [Column; 7] = [
    Column::new("type", 40),
    Column::new("versions", 20),
    Column::new("member", 60),
    Column::new("json_type", 30),
    Column::new("events", 20),
    Column::new("optional", 8),
    Column::new("example", EXAMPLE + 2),
];

/// A place in the JSON.
#[derive(Default)]
struct Node {
    /// How often it was there.
    count: u64,
    nulls: u64,
    booleans: u64,
    integers: u64,
    numbers: u64,
    strings: u64,
    objects: u64,
    arrays: u64,
    /// Of the strings.
    uuids: u64,
    members: BTreeMap<String, Node>,
    /// There were more members than are kept.
    more: bool,
    items: Option<Box<Node>>,
    /// JSON, without what is not for everybody.
    example: Option<Value>,
}

#[derive(Default)]
struct Type {
    events: u64,
    versions: BTreeSet<String>,
    payload: Node,
    members: usize,
}

pub(crate) fn run(source: &Source, arguments: &SchemaArgs, progress: &Progress) -> Done {
    let log = source.open()?;
    let (after, to) = log.range(arguments.range.from.as_ref(), arguments.range.to.as_ref(), None)?;
    let wanted = Wanted {
        types: arguments.types.clone(),
        after,
        to,
        ..log.everything()
    };
    // A column that is not there is told before the log is read.
    let rows = Rows::new(&arguments.rows, &COLUMNS)?;
    let mut types: BTreeMap<String, Type> = BTreeMap::new();
    for shard in log.shards().all() {
        let wanted = Wanted {
            shard: Some(shard),
            ..wanted.clone()
        };
        log.each(&wanted, "schema", progress, &mut |event| {
            if let Err(error) = learn(&mut types, &event) {
                let place = LogPosition {
                    shard: event.shard,
                    position: event.position,
                };
                progress.error(format_args!("the payload at {} is no JSON: {error}", place.text(log.shards())));
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    match arguments.rows.format() {
        Format::Table | Format::Csv => print_rows(rows, &types)?,
        Format::Json => {
            let mut out = BufWriter::new(stdout().lock());
            let one = arguments.types.len() == 1 && arguments.types.iter().all(event_store::TypePattern::is_name);
            match types.iter().next().filter(|_| one) {
                Some((name, known)) => output::json(&mut out, &schema(name, known))?,
                None => output::json(&mut out, &all(&types))?,
            }
            out.flush()?;
        }
        Format::Ndjson => {
            let mut out = BufWriter::new(stdout().lock());
            for (name, known) in &types {
                output::ndjson(&mut out, &[schema(name, known)])?;
            }
            out.flush()?;
        }
    }
    if types.is_empty() {
        progress.say("no event matches; `replay types` lists the types that there are");
    }
    Ok(OK)
}

fn learn(types: &mut BTreeMap<String, Type>, event: &EventRef<'_>) -> Result<(), serde_json::Error> {
    if !types.contains_key(event.event_type) {
        if types.len() >= MOST_TYPES {
            return Ok(());
        }
        types.insert(event.event_type.to_owned(), Type::default());
    }
    let Some(known) = types.get_mut(event.event_type) else {
        return Ok(());
    };
    known.events += 1;
    if !known.versions.contains(event.event_version) && known.versions.len() < MOST_VERSIONS {
        known.versions.insert(event.event_version.to_owned());
    }
    let mut json = serde_json::Deserializer::from_str(event.payload);
    Look {
        node: &mut known.payload,
        members: &mut known.members,
        name: "",
    }
    .deserialize(&mut json)?;
    json.end()
}

/// Reads a value and keeps its shape.
struct Look<'a> {
    node: &'a mut Node,
    /// How many members the type has so far.
    members: &'a mut usize,
    name: &'a str,
}

impl Look<'_> {
    fn example(&mut self, example: impl FnOnce() -> Value) {
        if self.node.example.is_none() {
            self.node.example = Some(example());
        }
    }

    fn text(mut self, text: &str) {
        self.node.strings += 1;
        self.node.uuids += u64::from(is_uuid(text));
        let name = self.name;
        self.example(|| {
            let shown = mask::shown(name, text);
            let cut = shown.chars().count() > EXAMPLE;
            Value::String(if cut {
                shown.chars().take(EXAMPLE).chain(['…']).collect()
            } else {
                shown
            })
        });
    }
}

/// As it is written everywhere: five groups of letters and digits.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

impl<'de> DeserializeSeed<'de> for Look<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        self.node.count += 1;
        json.deserialize_any(self)
    }
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Visitor<'de> for Look<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.node.nulls += 1;
        Ok(())
    }

    fn visit_bool<E>(mut self, value: bool) -> Result<(), E> {
        self.node.booleans += 1;
        self.example(|| value.into());
        Ok(())
    }

    fn visit_u64<E>(mut self, value: u64) -> Result<(), E> {
        self.node.integers += 1;
        self.example(|| value.into());
        Ok(())
    }

    fn visit_i64<E>(mut self, value: i64) -> Result<(), E> {
        self.node.integers += 1;
        self.example(|| value.into());
        Ok(())
    }

    fn visit_f64<E>(mut self, value: f64) -> Result<(), E> {
        self.node.numbers += 1;
        self.example(|| value.into());
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.text(value);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.node.arrays += 1;
        let node = self.node.items.get_or_insert_default();
        while items
            .next_element_seed(Look {
                node: &mut *node,
                members: &mut *self.members,
                name: self.name,
            })?
            .is_some()
        {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        self.node.objects += 1;
        while let Some(Name(name)) = members.next_key()? {
            if !self.node.members.contains_key(&*name) {
                if *self.members >= MOST_MEMBERS {
                    self.node.more = true;
                    members.next_value::<serde::de::IgnoredAny>()?;
                    continue;
                }
                *self.members += 1;
                self.node.members.insert(name.clone().into_owned(), Node::default());
            }
            if let Some(node) = self.node.members.get_mut(&*name) {
                members.next_value_seed(Look {
                    node,
                    members: &mut *self.members,
                    name: &name,
                })?;
            }
        }
        Ok(())
    }
}

impl Node {
    fn json_types(&self) -> Vec<&'static str> {
        let types = [
            (self.objects, "object"),
            (self.arrays, "array"),
            (self.strings, "string"),
            // What is counted in integers now and then is a number.
            (if self.numbers > 0 { self.integers + self.numbers } else { 0 }, "number"),
            (if self.numbers > 0 { 0 } else { self.integers }, "integer"),
            (self.booleans, "boolean"),
            (self.nulls, "null"),
        ];
        types.iter().filter(|(count, _)| *count > 0).map(|(_, name)| *name).collect()
    }

    fn schema(&self) -> Value {
        let types = self.json_types();
        let mut schema = match types.as_slice() {
            [] => json!({}),
            [one] => json!({ "type": one }),
            several => json!({ "type": several }),
        };
        let mut add = |name: &str, value: Value| {
            if let Some(members) = schema.as_object_mut() {
                members.insert(name.to_owned(), value);
            }
        };
        add("x-count", self.count.into());
        if self.strings > 0 && self.uuids == self.strings {
            add("format", "uuid".into());
        }
        if let Some(example) = &self.example {
            add("examples", Value::Array(vec![example.clone()]));
        }
        if self.objects > 0 {
            let members = self.members.iter().map(|(name, node)| (name.clone(), node.schema()));
            add("properties", Value::Object(members.collect()));
            let required = self.members.iter().filter(|(_, node)| node.count == self.objects);
            add("required", required.map(|(name, _)| Value::from(name.as_str())).collect());
            add("additionalProperties", self.more.into());
        }
        if let Some(items) = &self.items {
            add("items", items.schema());
        }
        schema
    }
}

fn schema(name: &str, known: &Type) -> Value {
    let mut schema = known.payload.schema();
    if let Some(members) = schema.as_object_mut() {
        members.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
        members.insert("title".to_owned(), name.into());
        members.insert(
            "x-versions".to_owned(),
            known.versions.iter().map(|version| Value::from(version.as_str())).collect(),
        );
    }
    schema
}

/// One document with all of them.
fn all(types: &BTreeMap<String, Type>) -> Value {
    let of = |name: &String| json!({ "$ref": format!("#/$defs/{name}") });
    let definitions = types.iter().map(|(name, known)| {
        let mut schema = schema(name, known);
        if let Some(members) = schema.as_object_mut() {
            members.remove("$schema");
        }
        (name.clone(), schema)
    });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": definitions.collect::<serde_json::Map<_, _>>(),
        "anyOf": types.keys().map(of).collect::<Vec<_>>(),
    })
}

fn print_rows(mut rows: Rows, types: &BTreeMap<String, Type>) -> Result<(), Failure> {
    for (name, known) in types {
        let versions = known.versions.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        let mut lines = Vec::new();
        members(&known.payload, "", &mut lines);
        for (path, node, optional) in lines {
            let example = node.example.as_ref().map(ToString::to_string).unwrap_or_default();
            rows.row(&[
                Cell::Text(name),
                Cell::Text(&versions),
                Cell::Text(&path),
                Cell::Text(&node.json_types().join(" or ")),
                Cell::Number(node.count),
                Cell::Text(if optional { "yes" } else { "no" }),
                Cell::Text(&example),
            ])?;
        }
    }
    rows.finish()
}

/// Each member by its path: `lines[].quantity`.
fn members<'a>(node: &'a Node, path: &str, lines: &mut Vec<(String, &'a Node, bool)>) {
    for (name, member) in &node.members {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        lines.push((path.clone(), member, member.count < node.objects));
        members(member, &path, lines);
        let (mut items, mut path) = (member.items.as_deref(), path);
        while let Some(item) = items {
            path.push_str("[]");
            if item.members.is_empty() || item.strings + item.integers + item.numbers + item.booleans > 0 {
                lines.push((path.clone(), item, false));
            }
            members(item, &path, lines);
            items = item.items.as_deref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(payloads: &[&str]) -> BTreeMap<String, Type> {
        let mut types = BTreeMap::new();
        for payload in payloads {
            let event = EventRef {
                shard: 0,
                position: 1,
                kind: "order",
                id: "",
                sequence: 1,
                event_id: "",
                event_type: "order.placed",
                event_version: "1.0.0",
                recorded_at: 0,
                payload,
                metadata: "{}",
            };
            learn(&mut types, &event).expect("JSON");
        }
        types
    }

    #[test]
    fn what_is_not_always_there_is_optional() {
        let types = learned(&[
            r#"{"n":1,"who":"0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0","lines":[{"q":1},{"q":2,"x":null}],"address":"v1.abcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghij","payment_key":"sim_ok_1234567"}"#,
            r#"{"n":1.5,"who":"0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0","lines":[]}"#,
        ]);
        let schema = schema("order.placed", &types["order.placed"]);
        assert_eq!(schema["required"], json!(["lines", "n", "who"]));
        assert_eq!(schema["properties"]["n"]["type"], "number");
        assert_eq!(schema["properties"]["who"]["format"], "uuid");
        assert_eq!(schema["properties"]["address"]["examples"], json!(["⟨sealed⟩"]));
        assert_eq!(schema["properties"]["payment_key"]["examples"], json!(["sim_ok_1…"]));
        let line = &schema["properties"]["lines"]["items"];
        assert_eq!(
            (&line["required"], &line["properties"]["x"]["type"]),
            (&json!(["q"]), &json!("null"))
        );
        let mut lines = Vec::new();
        members(&types["order.placed"].payload, "", &mut lines);
        let paths: Vec<_> = lines.iter().map(|(path, _, optional)| (path.as_str(), *optional)).collect();
        assert_eq!(
            paths,
            [
                ("address", true),
                ("lines", false),
                ("lines[].q", false),
                ("lines[].x", true),
                ("n", false),
                ("payment_key", true),
                ("who", false)
            ]
        );
    }

    #[test]
    fn members_without_number_do_not_fill_the_memory() {
        let payloads: Vec<_> = (0..MOST_MEMBERS + 500).map(|n| format!("{{\"m{n}\":1}}")).collect();
        let payloads: Vec<_> = payloads.iter().map(String::as_str).collect();
        let types = learned(&payloads);
        assert_eq!(types["order.placed"].payload.members.len(), MOST_MEMBERS);
        assert_eq!(schema("order.placed", &types["order.placed"])["additionalProperties"], true);
    }
}
