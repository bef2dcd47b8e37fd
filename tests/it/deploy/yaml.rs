//! YAML documents as JSON values, by the core schema's rules for plain scalars.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError};
use serde_json::{Map, Value};

/// Reads all documents of a text. Anchors and tags, which these files do not need, are rejected.
pub(super) fn documents(text: &str) -> Result<Vec<Value>, ScanError> {
    let mut events = Parser::new_from_str(text).map(|event| event.map(|(event, _)| event));
    let mut documents = Vec::new();
    while let Some(event) = events.next() {
        match event? {
            Event::DocumentStart(_) => {
                let first = events.next().expect("a document has a node")?;
                documents.push(node(first, &mut events)?);
            }
            Event::StreamEnd => break,
            _ => {}
        }
    }
    Ok(documents)
}

fn node<'a>(
    first: Event<'a>,
    events: &mut impl Iterator<Item = Result<Event<'a>, ScanError>>,
) -> Result<Value, ScanError> {
    Ok(match first {
        Event::Scalar(text, style, 0, None) => scalar(&text, style),
        Event::SequenceStart(0, None) => {
            let mut items = Vec::new();
            loop {
                match events.next().expect("a sequence ends")? {
                    Event::SequenceEnd => break Value::Array(items),
                    first => items.push(node(first, events)?),
                }
            }
        }
        Event::MappingStart(0, None) => {
            let mut map = Map::new();
            loop {
                match events.next().expect("a mapping ends")? {
                    Event::MappingEnd => break Value::Object(map),
                    key => {
                        let key = match node(key, events)? {
                            Value::String(key) => key,
                            key => key.to_string(),
                        };
                        let value = events.next().expect("a key has a value")?;
                        let value = node(value, events)?;
                        assert!(map.insert(key.clone(), value).is_none(), "key {key} twice");
                    }
                }
            }
        }
        event => panic!("unexpected {event:?}"),
    })
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return text.into();
    }
    match text {
        "" | "~" | "null" => Value::Null,
        "true" => true.into(),
        "false" => false.into(),
        // YAML 1.1, which Kubernetes reads, takes a leading zero as octal; here only the type matters.
        _ => text.parse::<i64>().map_or_else(|_| text.into(), Value::from),
    }
}

#[test]
fn documents_become_values() {
    let text = "# comment\na: {b: [1, \"2\", x]}\nc: |\n  two\n  lines\n---\n- true\n";
    let found = documents(text).unwrap();
    assert_eq!(found[0], serde_json::json!({"a": {"b": [1, "2", "x"]}, "c": "two\nlines\n"}));
    assert_eq!(found[1], serde_json::json!([true]));
    assert!(documents("a: [1").is_err());
}
