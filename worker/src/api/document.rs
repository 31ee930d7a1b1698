//! The OpenAPI document, made from the routes.

use axum::{
    Json,
    http::{HeaderName, header},
    response::Html,
};
use serde_json::{Map, Value, json};
use utoipa::{
    PartialSchema as _, ToSchema as _,
    openapi::{ComponentsBuilder, InfoBuilder, OpenApiBuilder},
};

use super::{
    problem::{PROBLEM_JSON, Problem},
    table::{Finished, Route},
};

/// What it is about.
const ABOUT: &str = "Millhand's HTTP API: all that its command line can do. Ids are numbers; paths take them as people see them, too \
    (t42, s7). Lists are pages: give `next` as `cursor` to get the one behind. What goes wrong is told as application/problem+json, with \
    what to do in `hint`.";

/// Read this document.
#[utoipa::path(get, path = "/openapi.json", tag = "document", responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub(super) async fn openapi() -> Json<Value> {
    Json(super::document())
}

/// Look at this document in a browser.
#[utoipa::path(get, path = "/docs", tag = "document", responses((status = 200, description = "A page", body = String, content_type = "text/html")))]
pub(super) async fn docs() -> Html<&'static str> {
    Html(include_str!("docs/index.html"))
}

/// The script of the page.
#[utoipa::path(get, path = "/docs/viewer.js", tag = "document",
    responses((status = 200, description = "A script", body = String, content_type = "text/javascript")))]
pub(super) async fn docs_script() -> ([(HeaderName, &'static str); 1], &'static str) {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("docs/viewer.js"))
}

/// How the page looks.
#[utoipa::path(get, path = "/docs/viewer.css", tag = "document",
    responses((status = 200, description = "A style", body = String, content_type = "text/css")))]
pub(super) async fn docs_style() -> ([(HeaderName, &'static str); 1], &'static str) {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("docs/viewer.css"))
}

/// The document that describes these routes.
pub(super) fn of(table: &Finished) -> Value {
    let mut schemas = table.schemas.clone();
    Problem::schemas(&mut schemas);
    schemas.push((Problem::name().into_owned(), Problem::schema()));
    let info = InfoBuilder::new().title("Millhand").version(env!("CARGO_PKG_VERSION")).description(Some(ABOUT));
    let document = OpenApiBuilder::new()
        .info(info)
        .paths(table.paths.clone())
        .components(Some(ComponentsBuilder::new().schemas_from_iter(schemas).build()))
        .build();
    let mut document = serde_json::to_value(document).unwrap_or_default();
    for route in &table.routes {
        complete(&mut document["paths"][&route.path][route.method.as_str().to_lowercase()], route);
    }
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        let names: Vec<_> = schemas.keys().cloned().collect();
        for name in names {
            if let Some(schema) = schemas.get_mut(&name) {
                settle(&name, schema);
            }
        }
    }
    document["components"]["securitySchemes"] = json!({
        "token": { "type": "http", "scheme": "bearer", "description": "Made by: millhand token add" },
        "browser": { "type": "apiKey", "in": "cookie", "name": "millhand_session", "description": "Set by the link that millhand up prints" },
    });
    document
}

/// What every operation has.
fn complete(operation: &mut Value, route: &Route) {
    let tag = operation["tags"][0].as_str().unwrap_or_default();
    let name = operation["operationId"].as_str().unwrap_or_default();
    operation["operationId"] = Value::from(format!("{tag}_{name}"));
    if let Some(scope) = route.scope {
        let scope = scope.as_str();
        operation["security"] = json!([{ "token": [scope] }, { "browser": [scope] }]);
        operation["x-scope"] = Value::from(scope);
    } else {
        operation["security"] = json!([]);
    }
    operation["responses"]["default"] = json!({
        "description": "What is wrong, and what to do",
        "content": { PROBLEM_JSON: { "schema": { "$ref": "#/components/schemas/Problem" } } },
    });
}

/// What utoipa leaves open.
fn settle(name: &str, schema: &mut Value) {
    // What is sent to us may lack what is optional, and a problem has what there is to say.
    if name.ends_with("Request") || name == "Problem" {
        return;
    }
    // A list names what it lists.
    if let Some(of) = name.strip_prefix("List_") {
        schema["properties"]["items"]["items"] = json!({ "$ref": format!("#/components/schemas/{of}") });
    }
    require_all(schema);
}

/// What we send is always there; what there is not is null.
fn require_all(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    for part in schema.get_mut("allOf").and_then(Value::as_array_mut).into_iter().flatten() {
        require_all(part);
    }
    let names = schema.get("properties").and_then(Value::as_object).map(Map::keys);
    let names: Vec<_> = names.into_iter().flatten().cloned().collect();
    if !names.is_empty() {
        schema.insert("required".to_owned(), Value::from(names));
    }
}
