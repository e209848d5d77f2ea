//! Types as the document describes them, by schemars.

use schemars::generate::{Contract, SchemaGenerator, SchemaSettings};
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

pub(super) const JSON: &str = "application/json";

/// A media type, and what is said of such a body.
pub(super) type Content = (&'static str, Value);

/// A body of one of several types.
pub(super) fn any_of<const N: usize>(types: [Value; N]) -> Content {
    (JSON, of(json!({ "anyOf": types.to_vec() })))
}

pub(super) fn of(schema: Value) -> Value {
    json!({ "schema": schema })
}

/// The types that answers and requests were found to have. What has a default is always in an answer, and
/// may be left out of a request.
pub(super) struct Types {
    answers: SchemaGenerator,
    requests: SchemaGenerator,
}

impl Types {
    pub(super) fn new() -> Types {
        let generator = |contract| {
            let settings = SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = "/components/schemas".into();
                settings.contract = contract;
            });
            let settings = settings.with_transform(RecursiveTransform(completed));
            settings.into_generator()
        };
        Types {
            answers: generator(Contract::Serialize),
            requests: generator(Contract::Deserialize),
        }
    }

    pub(super) fn answer<T: JsonSchema>(&mut self) -> Value {
        self.answers.subschema_for::<T>().to_value()
    }

    pub(super) fn json<T: JsonSchema>(&mut self) -> Content {
        (JSON, of(self.answer::<T>()))
    }

    /// A body of a type, or an error.
    pub(super) fn or_error<T: JsonSchema>(&mut self) -> Content {
        let error = json!({ "$ref": "#/components/schemas/Error" });
        any_of([self.answer::<T>(), error])
    }

    pub(super) fn request<T: JsonSchema>(&mut self, is_required: bool) -> Value {
        let schema = self.requests.subschema_for::<T>().to_value();
        json!({ "required": is_required, "content": { JSON: of(schema) } })
    }

    pub(super) fn schemas(mut self) -> serde_json::Map<String, Value> {
        let mut schemas = self.answers.take_definitions(true);
        schemas.extend(self.requests.take_definitions(true));
        schemas
    }
}

/// Adds what the types do not say: an object has no other keys, a `usize` is a number of 64 bits, and how an id
/// is written. Removes what does not concern clients: what a missing key of an old record counts as. The words
/// of an enum are listed as `enum`, which more programs understand than a constant for each.
fn completed(schema: &mut Schema) {
    schema.remove("default");
    if let Some(Value::String(description)) = schema.get_mut("description") {
        *description = description.replace('\n', " ");
    }
    let words = schema.get("oneOf").and_then(Value::as_array);
    let words: Option<Vec<Value>> = words.and_then(|words| {
        words
            .iter()
            .map(|word| word.get("const").cloned())
            .collect()
    });
    if let Some(words) = words {
        schema.remove("oneOf");
        schema.insert("type".into(), "string".into());
        schema.insert("enum".into(), words.into());
    }
    if schema.get("format").is_some_and(|format| format == "uint") {
        schema.insert("format".into(), "uint64".into());
    }
    if schema.get("properties").is_some() {
        schema.insert("additionalProperties".into(), false.into());
    }
    for name in ["ID", "id", "job"] {
        if let Some(id) = schema.pointer_mut(&format!("/properties/{name}")) {
            id["pattern"] = "^[0-9a-f]{64}$".into();
        }
    }
}
