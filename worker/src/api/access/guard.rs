//! One request: who sends it, may they, and what is noted of it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{Extensions, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bytes::BytesMut;
use futures::StreamExt as _;
use http_body_util::Limited;

use super::{
    BODY_BYTES, Gate,
    credentials::{Credential, came_from, credential},
    headers,
};
use crate::{
    actions::{Principal, principal_of},
    api::problem::Problem,
    model::{
        access::{Scope, host_name, is_own_host, is_own_page},
        ids::{AnyId, TaskId},
    },
    store::access::ApiCall,
};

/// How much of a body is read that is too large.
const READ_ON_BYTES: usize = 8 * BODY_BYTES;
/// How long a body may take to come.
const BODY_WITHIN: Duration = Duration::from_secs(60);

/// Whom a route is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    Everybody,
    /// Whoever has a token, whatever it is for.
    Known,
    Scoped(Scope),
}

/// Stands before every route.
pub(super) async fn guard(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let answered = match gate.admit(request).await {
        Ok((request, None)) => gate.serve_anybody(request, next).await,
        Ok((request, Some(known))) => gate.serve(request, next, known).await,
        Err(problem) => Err(problem),
    };
    let mut response = answered.unwrap_or_else(Problem::into_response);
    headers::complete(&mut response);
    response
}

/// Who asks, and with what.
struct Known {
    principal: Principal,
    credential: Credential,
    whom: For,
}

impl Gate {
    /// Lets a request in, and says who sends it where that matters.
    async fn admit(&self, request: Request) -> Result<(Request, Option<Known>), Problem> {
        let (mut parts, body) = request.into_parts();
        let host = self.own_host(&parts)?;
        let whom = self.whom(&parts);
        if whom == For::Everybody {
            return Ok((Request::from_parts(parts, Body::new(Limited::new(body, BODY_BYTES))), None));
        }
        let known = self.known(&parts, &host, whom).await?;
        parts.extensions.insert(known.principal.clone());
        let body = tokio::time::timeout(BODY_WITHIN, whole(body)).await;
        let slow = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the body did not come in time");
        let body = body.map_err(slow)??;
        Ok((Request::from_parts(parts, body), Some(known)))
    }

    /// The `Host` that we are called by, if it is ours.
    fn own_host(&self, request: &Parts) -> Result<String, Problem> {
        let mut lines = request.headers.get_all(header::HOST).iter();
        let line = match (lines.next(), lines.next()) {
            (Some(line), None) => line.to_str().unwrap_or_default(),
            _ => return Err(Problem::bad("a request has one Host header")),
        };
        // Some say it in the first line as well, which then counts for others.
        let also = request.uri.authority().map(|authority| authority.as_str());
        for named in [Some(line), also].into_iter().flatten() {
            if !host_name(named).is_some_and(|name| is_own_host(&name, self.listen, &self.hosts)) {
                let problem = Problem::new(StatusCode::MISDIRECTED_REQUEST, "wrong_host", "this name is not ours");
                return Err(problem.hint("call it by its address, or name it in millhand.toml: [api] hosts"));
            }
        }
        Ok(line.to_owned())
    }

    fn whom(&self, request: &Parts) -> For {
        let method = match &request.method {
            // Answered as GET is, without the body.
            &Method::HEAD => &Method::GET,
            method => method,
        };
        let Some(matched) = request.extensions.get::<MatchedPath>() else {
            // Files of the dashboard, or nothing.
            let path = request.uri.path();
            let is_private = path == "/api" || path.starts_with("/api/");
            return if method == Method::GET && !is_private { For::Everybody } else { For::Known };
        };
        match self.scopes.get(&(method.clone(), matched.as_str().to_owned())) {
            Some(Some(scope)) => For::Scoped(*scope),
            Some(None) => For::Everybody,
            None => For::Known,
        }
    }

    /// Who sends a request, if they may.
    async fn known(&self, request: &Parts, host: &str, whom: For) -> Result<Known, Problem> {
        let headers = &request.headers;
        let Some(credential) = credential(headers) else {
            return Err(unknown("this takes a token"));
        };
        if credential.shown == crate::store::access::Shown::Browser
            && !is_own_page(came_from(headers), host, request.method.is_safe())
        {
            let problem = Problem::new(StatusCode::FORBIDDEN, "cross_origin", "this was not asked by a page of ours");
            return Err(problem.hint("programs show a token: Authorization: Bearer mh_..."));
        }
        let Some(principal) = self.principal(&credential).await? else {
            return Err(match self.limits.wrong_secret(peer(&request.extensions)) {
                Ok(()) => unknown("this token is not known, or worth nothing any more"),
                Err(wait) => Problem::too_many("too many wrong tokens", wait),
            });
        };
        self.limits.request(principal.id.0).map_err(|wait| Problem::too_many("too many requests", wait))?;
        if let For::Scoped(scope) = whom
            && !principal.may(scope)
        {
            tracing::info!(token = %principal.id, scope = scope.as_str(), "refused to a token without the scope");
            let detail = format!("this takes a token with the scope {scope}");
            return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail).scope(scope.as_str()));
        }
        Ok(Known { principal, credential, whom })
    }

    async fn principal(&self, credential: &Credential) -> Result<Option<Principal>, Problem> {
        let _turn = self.lookups.acquire().await.ok();
        Ok(principal_of(&self.store, credential.shown, &credential.secret).await?)
    }

    /// Has an open route answer. A link that logs nobody in counts as a wrong token does.
    async fn serve_anybody(&self, request: Request, next: Next) -> Result<Response, Problem> {
        let from = peer(request.extensions());
        let response = next.run(request).await;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.limits.wrong_secret(from).map_err(|wait| Problem::too_many("too many wrong links", wait))?;
        }
        Ok(response)
    }

    /// Has a request answered. One that changes something is seen through to its end, also where nobody waits for its answer any more, and
    /// noted.
    async fn serve(self: &Arc<Self>, request: Request, next: Next, known: Known) -> Result<Response, Problem> {
        if request.method().is_safe() {
            let response = next.run(request).await;
            return Ok(if is_stream(&response) { self.until_revoked(response, known) } else { response });
        }
        let gate = self.clone();
        let call = tokio::spawn(async move {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            let response = next.run(request).await;
            gate.note(&known.principal, &method, &path, response.status()).await;
            response
        });
        call.await.map_err(|error| {
            tracing::error!(%error, "a request failed");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "something is wrong here; see the log")
        })
    }

    async fn note(&self, principal: &Principal, method: &Method, path: &str, status: StatusCode) {
        let call = ApiCall {
            token_id: principal.id.0,
            who: &principal.name,
            method: method.as_str(),
            path,
            status: i32::from(status.as_u16()),
            task_id: task_of(path).map(|task| task.0),
        };
        if let Err(error) = self.store.note_api_call(&call).await {
            tracing::warn!(%error, token = %principal.id, %method, path, %status, "a call of the API is not in the audit log");
        }
    }

    /// Ends a stream some time after its reader's token is worth nothing any more.
    fn until_revoked(self: &Arc<Self>, response: Response, known: Known) -> Response {
        let gate = self.clone();
        let revoked = async move {
            loop {
                tokio::time::sleep(gate.recheck).await;
                let may = |found: Option<Principal>| match (found, known.whom) {
                    (Some(principal), For::Scoped(scope)) => principal.may(scope),
                    (found, _) => found.is_some(),
                };
                // While nobody can say, it goes on.
                if gate.principal(&known.credential).await.is_ok_and(|found| !may(found)) {
                    tracing::info!(token = %known.principal.id, "its stream ends: it is worth nothing any more");
                    return;
                }
            }
        };
        response.map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(revoked))))
    }
}

fn unknown(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
        .hint("make one: millhand token add NAME --scope read, and send Authorization: Bearer mh_...; for a browser: millhand token login")
}

/// The body, once all of it is there. Of one that is too large some more is read, and dropped: who is still sending sees no answer.
async fn whole(body: Body) -> Result<Body, Problem> {
    let mut kept = BytesMut::new();
    let mut came = 0;
    let mut stream = body.into_data_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| Problem::bad(format!("the body cannot be read: {error}")))?;
        came += chunk.len();
        if came <= BODY_BYTES {
            kept.extend_from_slice(&chunk);
        } else if came > READ_ON_BYTES {
            break;
        }
    }
    if came > BODY_BYTES {
        let detail = format!("a body has at most {BODY_BYTES} bytes");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail));
    }
    Ok(Body::from(kept.freeze()))
}

fn is_stream(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("text/event-stream"))
}

fn peer(extensions: &Extensions) -> IpAddr {
    let address = extensions.get::<ConnectInfo<SocketAddr>>();
    address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(address)| address.ip())
}

/// The task that a path is about.
fn task_of(path: &str) -> Option<TaskId> {
    let id = path.strip_prefix("/api/tasks/")?.split('/').next()?;
    match id.parse() {
        Ok(AnyId::Task(task)) => Some(task),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_tells_the_task() {
        assert_eq!(task_of("/api/tasks/t42/cancel"), Some(TaskId(42)));
        assert_eq!(task_of("/api/tasks/42"), Some(TaskId(42)));
        for other in ["/api/tasks", "/api/tasks/", "/api/tasks/s7", "/api/sessions/7/tasks", "/api/tasks/x"] {
            assert_eq!(task_of(other), None, "{other}");
        }
    }
}
