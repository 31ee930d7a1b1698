//! The document: it is the committed one, and it has every route.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

fn committed() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../web/openapi.json")
}

#[test]
fn the_committed_document_is_the_one_that_is_served() {
    let served = serde_json::to_string_pretty(&millhand::api::document()).expect("JSON") + "\n";
    if std::env::var_os("MILLHAND_WRITE_OPENAPI").is_some() {
        fs::write(committed(), &served).expect("web/openapi.json");
    }
    let found = fs::read_to_string(committed()).unwrap_or_default();
    assert!(found == served, "web/openapi.json is not what is served; write it anew: MILLHAND_WRITE_OPENAPI=1");
}

#[test]
fn every_route_is_in_the_document_once_with_its_scope() {
    let document = millhand::api::document();
    let mut ids = BTreeSet::new();
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            described.insert((method.to_uppercase(), path.clone()));
            let id = operation["operationId"].as_str().expect("an id").to_owned();
            assert!(ids.insert(id.clone()), "{id} is there twice");
            assert!(operation["summary"].is_string(), "{id} says nothing of itself");
        }
    }
    let mut entered = BTreeSet::new();
    for route in millhand::api::routes() {
        let operation = &document["paths"][&route.path][route.method.as_str().to_lowercase()];
        let scope = route.scope.map_or(Value::Null, |scope| Value::from(scope.as_str()));
        assert_eq!(operation["x-scope"], scope, "{} {}", route.method, route.path);
        let open = matches!(route.path.as_str(), "/healthz" | "/readyz" | "/login");
        assert_eq!(route.scope.is_none(), open, "{}: nothing but this is open to everybody", route.path);
        assert!(entered.insert((route.method.to_string(), route.path)));
    }
    assert_eq!(entered, described);
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    fn walk(document: &Value, value: &Value) {
        match value {
            Value::Object(fields) => {
                if let Some(to) = fields.get("$ref").and_then(Value::as_str) {
                    assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{to}");
                }
                fields.values().for_each(|field| walk(document, field));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(document, item)),
            _ => {}
        }
    }
    let document = millhand::api::document();
    walk(&document, &document);
}
