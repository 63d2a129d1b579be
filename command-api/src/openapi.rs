//! The API's description: what the code says of each call, and what all calls have in common.

use http::Method;
use serde_json::{Value, json};

use crate::problem::REGISTRY;

/// Whether a call takes an `Idempotency-Key`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    /// Each but a dry run, which `OpenAPI` can say in words alone.
    Required,
    Optional,
    None,
}

/// What a call has in common with others.
struct Call {
    id: &'static str,
    key: Key,
    /// Takes `If-Match` and `dryRun`, and answers with `ETag` and `Consistency-Token`.
    command: bool,
    /// Takes `Prefer: wait`.
    waits: bool,
    /// The statuses of its refusals.
    refuses: &'static [u16],
}

/// Too many requests, where there are limits.
const ANY_CALL: &[u16] = &[429];
const READS_A_BODY: &[u16] = &[400, 408, 413, 415, 422, 500, 503];

const CALLS: &[Call] = &[
    Call {
        id: "register",
        key: Key::Optional,
        command: true,
        waits: false,
        refuses: &[409, 410, 412],
    },
    Call {
        id: "deposit",
        key: Key::Required,
        command: true,
        waits: false,
        refuses: &[401, 403, 404, 409, 412],
    },
    Call {
        id: "logIn",
        key: Key::None,
        command: false,
        waits: false,
        refuses: &[401, 410, 429],
    },
    Call {
        id: "refresh",
        key: Key::None,
        command: false,
        waits: false,
        refuses: &[401],
    },
    Call {
        id: "logOut",
        key: Key::None,
        command: false,
        waits: false,
        refuses: &[401],
    },
    Call {
        id: "jwks",
        key: Key::None,
        command: false,
        waits: false,
        refuses: &[],
    },
    Call {
        id: "offerProduct",
        key: Key::Optional,
        command: true,
        waits: false,
        refuses: &[401, 403, 409, 412],
    },
    Call {
        id: "changeProduct",
        key: Key::Optional,
        command: true,
        waits: false,
        refuses: &[401, 403, 404, 409, 412],
    },
    Call {
        id: "retireProduct",
        key: Key::Optional,
        command: true,
        waits: false,
        refuses: &[400, 401, 403, 404, 409, 412, 422, 503],
    },
    Call {
        id: "receiveStock",
        key: Key::Required,
        command: true,
        waits: false,
        refuses: &[401, 403, 404, 409, 412],
    },
    Call {
        id: "adjustStock",
        key: Key::Required,
        command: true,
        waits: false,
        refuses: &[401, 403, 404, 409, 412],
    },
    Call {
        id: "placeOrder",
        key: Key::Required,
        command: true,
        waits: true,
        refuses: &[401, 403, 409, 410, 412],
    },
    Call {
        id: "order",
        key: Key::None,
        command: false,
        waits: false,
        refuses: &[400, 401, 404, 503],
    },
    Call {
        id: "payOrder",
        key: Key::Required,
        command: true,
        waits: true,
        refuses: &[401, 403, 404, 409, 410, 412],
    },
    Call {
        id: "cancelOrder",
        key: Key::Required,
        command: true,
        waits: true,
        refuses: &[401, 403, 404, 409, 410, 412],
    },
    Call {
        id: "resumeProcess",
        key: Key::Optional,
        command: true,
        waits: true,
        refuses: &[401, 403, 404, 409, 412],
    },
    Call {
        id: "compensateProcess",
        key: Key::Optional,
        command: true,
        waits: true,
        refuses: &[401, 403, 404, 409, 410, 412],
    },
    Call {
        id: "resolveProcess",
        key: Key::Optional,
        command: true,
        waits: true,
        refuses: &[401, 403, 404, 409, 410, 412],
    },
    Call {
        id: "processes",
        key: Key::None,
        command: false,
        waits: false,
        refuses: &[400, 401, 403, 500, 503],
    },
    Call {
        id: "parked",
        key: Key::None,
        command: false,
        waits: false,
        refuses: &[401, 403, 503],
    },
    Call {
        id: "retryParked",
        key: Key::None,
        command: false,
        waits: false,
        refuses: &[400, 401, 403, 404, 409, 410, 422, 503],
    },
    Call {
        id: "dropParked",
        key: Key::None,
        command: false,
        waits: false,
        refuses: &[400, 401, 403, 404, 409, 503],
    },
];

/// The description of the whole API, from what utoipa collected.
pub(crate) fn describe(collected: &utoipa::openapi::OpenApi) -> Value {
    let mut document = serde_json::to_value(collected).unwrap_or_default();
    document["info"] = json!({
        "title": "Jangbu commands",
        "version": "1",
        "description": "Commands to the shop. Questions are asked in GraphQL, at /graphql.\n\n\
            Money is counted in the smallest unit of its currency. An error is `application/problem+json` with a stable `code`, \
            and a `title` in Korean or English by `Accept-Language`. A path whose id is no UUID is 404 as if it named nothing.",
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    });
    document["components"]["securitySchemes"]["bearer"] = json!({
        "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
        "description": "The access token of `POST /api/v1/auth/login`. A scope here is the role that the call is for.",
    });
    document["components"]["schemas"]["Problem"] = problem_schema();
    document["components"]["schemas"]["DryRun"] = dry_run_schema();
    let refusals = READS_A_BODY
        .iter()
        .chain(ANY_CALL)
        .chain(CALLS.iter().flat_map(|call| call.refuses));
    for status in refusals {
        document["components"]["responses"][format!("Problem{status}")] = refusal(*status);
    }
    let operations = document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut());
    for operation in operations.flat_map(|path| path.as_object_mut().into_iter().flat_map(|path| path.values_mut())) {
        let id = operation["operationId"].as_str().unwrap_or_default();
        if let Some(call) = CALLS.iter().find(|call| call.id == id) {
            complete(operation, call);
        }
    }
    document
}

/// The calls of a description, for the figures.
pub(crate) fn calls(document: &Value) -> Vec<(Method, String)> {
    let paths = document["paths"].as_object().into_iter().flatten();
    paths
        .flat_map(|(path, operations)| {
            let methods = operations.as_object().into_iter().flat_map(|operations| operations.keys());
            methods.filter_map(move |method| Some((method.to_ascii_uppercase().parse().ok()?, path.clone())))
        })
        .collect()
}

fn complete(operation: &mut Value, call: &Call) {
    let mut parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
    if call.key != Key::None {
        let needed = if call.key == Key::Required {
            "Required unless `dryRun=true`: without it the answer is 400 `idempotency-key-required`."
        } else {
            "This call can do without."
        };
        let description =
            format!("Makes a repeat of this request harmless: up to 255 visible ASCII characters, with or without quotes. {needed}");
        parameters.push(
            json!({"name": "Idempotency-Key", "in": "header", "required": false, "description": description,
            "schema": {"type": "string", "minLength": 1, "maxLength": 257}, "example": "8e03978e-40d5-43e8-bc93-6894a57f9324"}),
        );
    }
    if call.command {
        parameters.push(json!({"name": "If-Match", "in": "header", "required": false,
            "description": "The version that you believe it to have, as in the ETag, or *.", "schema": {"type": "string"}}));
        parameters.push(json!({"name": "dryRun", "in": "query", "required": false,
            "description": "true: answers 200 with the events that would be recorded, and records nothing. No `Idempotency-Key` is used up by it, and nothing is waited for.",
            "schema": {"type": "boolean"}}));
    }
    if call.waits {
        parameters.push(json!({"name": "Prefer", "in": "header", "required": false,
            "description": "wait=N waits up to N seconds (at most 60) for the outcome of the whole purchase.",
            "schema": {"type": "string"}, "example": "wait=10"}));
    }
    if !call.refuses.is_empty() || operation.get("requestBody").is_some() {
        parameters.push(json!({"name": "Accept-Language", "in": "header", "required": false,
            "description": "ko or en.", "schema": {"type": "string"}, "example": "ko"}));
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    complete_answers(operation, call);
}

fn complete_answers(operation: &mut Value, call: &Call) {
    let reads = operation.get("requestBody").is_some();
    let Some(responses) = operation["responses"].as_object_mut() else {
        return;
    };
    if call.waits {
        let mut settled = responses.values().next().cloned().unwrap_or_default();
        settled["description"] = json!("The purchase has settled (with `Prefer: wait`).");
        responses.insert("200".to_owned(), settled);
    }
    if call.command {
        for response in responses.values_mut() {
            response["headers"] = answer_headers(call);
        }
        let answer = responses.remove("200");
        responses.insert("200".to_owned(), or_dry_run(answer));
    }
    let of_body = if reads { READS_A_BODY } else { &[] };
    for status in call.refuses.iter().chain(ANY_CALL).chain(of_body) {
        responses.insert(
            status.to_string(),
            json!({"$ref": format!("#/components/responses/Problem{status}")}),
        );
    }
}

/// The answer to a dry run, beside the other one with its status.
fn or_dry_run(answer: Option<Value>) -> Value {
    const SCHEMA: &str = "/content/application~1json/schema";
    let planned = json!({"$ref": "#/components/schemas/DryRun"});
    let Some(mut answer) = answer else {
        return json!({"description": "The events of a dry run.", "content": {"application/json": {"schema": planned}}});
    };
    let description = answer["description"].as_str().unwrap_or_default();
    answer["description"] = json!(format!("{description} Or the events of a dry run, without these headers."));
    if let Some(schema) = answer.pointer_mut(SCHEMA) {
        *schema = json!({"oneOf": [schema.take(), planned]});
    }
    answer
}

fn dry_run_schema() -> Value {
    json!({
        "type": "object",
        "description": "What would be recorded.",
        "required": ["events"],
        "properties": {
            "events": {"type": "array", "items": {
                "type": "object",
                "required": ["aggregateType", "aggregateId", "sequence", "eventType", "payload"],
                "properties": {
                    "aggregateType": {"type": "string", "example": "order"},
                    "aggregateId": {"type": "string", "format": "uuid"},
                    "sequence": {"type": "integer", "format": "int64", "minimum": 1, "description": "The event's place in its stream."},
                    "eventType": {"type": "string", "example": "order.placed"},
                    "payload": {"type": "object", "description": "The event as it would be stored; what is personal is sealed."},
                },
            }},
        },
    })
}

fn answer_headers(call: &Call) -> Value {
    let text = |description: &str| json!({"description": description, "schema": {"type": "string"}});
    let mut headers = json!({
        "ETag": text("The version after the command."),
        "Consistency-Token": text("A query that shows it sees the command's effects. With several shards it may be a list of tokens: pass it on as it is."),
    });
    if call.key != Key::None {
        headers["Idempotency-Replayed"] = text("true when the answer was recorded by an earlier request with the same key.");
    }
    if call.waits {
        headers["Preference-Applied"] = text("The wait that was applied.");
    }
    headers
}

fn refusal(status: u16) -> Value {
    let codes: Vec<_> = REGISTRY
        .iter()
        .filter(|code| code.status == status)
        .map(|code| format!("`{}`", code.name))
        .collect();
    let example = REGISTRY.iter().find(|code| code.status == status).map(|code| {
        json!({"type": format!("/problems/{}", code.name), "title": code.korean, "status": status, "detail": code.english,
            "code": code.name, "traceId": "4bf92f3577b34da6a3ce929d0e0e4736"})
    });
    let mut response = json!({
        "description": if codes.is_empty() { "A problem.".to_owned() } else { format!("One of {}.", codes.join(", ")) },
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}},
    });
    if matches!(status, 409 | 429 | 503) {
        response["headers"]["Retry-After"] = json!({"description": "Seconds, where a repeat helps.", "schema": {"type": "integer"}});
    }
    if status == 429 {
        let text = |description: &str| json!({"description": description, "schema": {"type": "string"}});
        response["headers"]["RateLimit-Policy"] = text("The limits: `q` requests in `w` seconds.");
        response["headers"]["RateLimit"] = text("Of each limit: `r` requests are left, and all are in `t` seconds.");
    }
    response
}

fn problem_schema() -> Value {
    json!({
        "type": "object",
        "description": "Why not (RFC 9457).",
        "required": ["type", "title", "status", "detail", "code", "traceId"],
        "properties": {
            "type": {"type": "string", "format": "uri-reference"},
            "title": {"type": "string", "description": "In Korean or English."},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "code": {"type": "string", "description": "Stable, for programs.", "enum": REGISTRY.iter().map(|code| code.name).collect::<Vec<_>>()},
            "errors": {"type": "array", "items": {
                "type": "object",
                "required": ["pointer", "code", "detail"],
                "properties": {
                    "pointer": {"type": "string", "description": "JSON pointer into the body."},
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                },
            }},
            "traceId": {"type": "string"},
        },
    })
}
