use command_api::openapi_document;
use serde_json::Value;

use crate::shop::Shop;

/// The description that is checked in is the one that the code has. To bring it up to date:
/// `JANGBU_TEST_UPDATE=1 cargo test -p command-api --test api documents`
#[test]
fn the_checked_in_description_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    let document = serde_json::to_string_pretty(&openapi_document()).expect("JSON") + "\n";
    if std::env::var_os("JANGBU_TEST_UPDATE").is_some() {
        std::fs::write(path, &document).expect("writable");
    }
    let known = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        known == document,
        "the API has changed: run JANGBU_TEST_UPDATE=1 cargo test -p command-api --test api documents, and look at the difference"
    );
}

#[test]
fn every_call_is_described_with_its_refusals() {
    let document = openapi_document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut calls = 0;
    for (path, operations) in document["paths"].as_object().expect("paths") {
        assert!(path.starts_with("/api/v1/"), "{path}");
        for (method, operation) in operations.as_object().expect("operations") {
            calls += 1;
            let responses = operation["responses"].as_object().expect("responses");
            let refusals = responses.keys().filter(|status| status.starts_with('4')).count();
            assert!(
                refusals > 0 || operation["operationId"] == "jwks",
                "{method} {path} is not completed"
            );
            if operation.get("requestBody").is_some() {
                assert!(
                    operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].is_string(),
                    "{method} {path}"
                );
            }
        }
    }
    assert_eq!(calls, 22);
    assert_references(&document, &document);
}

#[test]
fn a_call_that_knows_dry_runs_describes_their_answer() {
    let document = openapi_document();
    let planned = serde_json::json!({"$ref": "#/components/schemas/DryRun"});
    let paths = document["paths"].as_object().expect("paths").values();
    let mut dry = 0;
    for operation in paths.flat_map(|path| path.as_object().expect("operations").values()) {
        let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert!(
            parameters
                .iter()
                .all(|parameter| parameter["in"] != "header" || parameter["required"] == false),
            "what a dry run can do without is not required: {parameters:?}"
        );
        let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
        let describes = *schema == planned
            || schema["oneOf"]
                .as_array()
                .is_some_and(|one| one.len() == 2 && one.contains(&planned));
        let knows = parameters.iter().any(|parameter| parameter["name"] == "dryRun");
        assert_eq!(describes, knows, "{}", operation["operationId"]);
        dry += usize::from(knows);
    }
    assert_eq!(dry, 13);
}

/// Every reference leads somewhere.
fn assert_references(document: &Value, value: &Value) {
    match value {
        Value::Object(members) => {
            if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').expect("a local reference");
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
            members.values().for_each(|value| assert_references(document, value));
        }
        Value::Array(values) => values.iter().for_each(|value| assert_references(document, value)),
        _ => {}
    }
}

#[tokio::test]
async fn the_description_and_its_pages_are_served() {
    let shop = Shop::open().await;
    let served = shop.get("/openapi.json").send().await;
    assert_eq!((served.status.as_u16(), served.body), (200, openapi_document()));
    assert!(shop.get("/docs").send().await.status.is_redirection());
    assert_eq!(shop.get("/docs/").send().await.status, 200);
    assert_eq!(shop.get("/docs/swagger-ui-bundle.js").send().await.status, 200);
}
