//! The table of routes: every address, its methods, the scope that each needs, and its handler.

use std::pin::Pin;

use hyper::Method;

use super::error::ApiError;
use super::request::{PathParams, Request};
use super::response::Response;
use super::state::Web;
use super::tokens::Scope;
use super::{
    artifacts, attempts, collection, embedded, groups, host, jobs, logs, news, pages, projects,
    queue, session,
};

/// Answers the requests of one route.
type Handler = for<'a> fn(
    &'a Web,
    Request,
) -> Pin<Box<dyn Future<Output = Result<Response, ApiError>> + Send + 'a>>;

/// One method of one address.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: Method,
    /// `{name}` stands for one segment, `{*name}` for all that follow.
    pub(super) path: &'static str,
    /// The scope that a token needs; `None` if no token is needed.
    pub(super) scope: Option<Scope>,
    pub(super) handler: Handler,
}

const PUBLIC: Option<Scope> = None;
const READ: Option<Scope> = Some(Scope::Read);
const BUILD: Option<Scope> = Some(Scope::Build);
const ADMIN: Option<Scope> = Some(Scope::Admin);

macro_rules! routes {
    ($($method:ident $path:literal $scope:ident => $handler:path,)*) => {
        &[$(Route {
            method: Method::$method,
            path: $path,
            scope: $scope,
            handler: |web, request| Box::pin($handler(web, request)),
        },)*]
    };
}

/// All routes. `GET` is also `HEAD`, and every address accepts `OPTIONS`. `PUBLIC` routes are the same for
/// all clients, and include the files of the page that asks for a token.
pub(super) static ROUTES: &[Route] = routes! {
    GET    "/"                                READ   => pages::overview,
    GET    "/static/{name}"                   PUBLIC => embedded::get,
    POST   "/jobs"                            BUILD  => jobs::create,
    GET    "/index"                           READ   => jobs::index,
    GET    "/index/"                          READ   => jobs::index,
    GET    "/job/{project}/{id}"              READ   => jobs::get,
    DELETE "/job/{project}/{id}"              ADMIN  => collection::remove,
    GET    "/job/{project}/{id}/attempts"     READ   => attempts::list,
    POST   "/job/{project}/{id}/cancel"       BUILD  => jobs::cancel,
    PUT    "/job/{project}/{id}/pin"          ADMIN  => collection::pin,
    DELETE "/job/{project}/{id}/pin"          ADMIN  => collection::unpin,
    POST   "/gc"                              ADMIN  => collection::collect,
    POST   "/queue/pause"                     ADMIN  => queue::pause,
    POST   "/queue/resume"                    ADMIN  => queue::resume,
    GET    "/log/{project}/{id}"              READ   => logs::get,
    GET    "/artifacts/{project}/{id}"        READ   => artifacts::tar,
    GET    "/artifacts/{project}/{id}/{*path}" READ  => artifacts::entry,
    GET    "/projects"                        READ   => projects::list,
    GET    "/project/{project}"               READ   => projects::get,
    POST   "/project/{project}/rebuild"       ADMIN  => projects::rebuild,
    GET    "/project/{project}/groups"        READ   => groups::list,
    POST   "/project/{project}/groups/reset"  BUILD  => groups::reset,
    GET    "/status"                          READ   => host::status,
    GET    "/events"                          READ   => news::follow,
    GET    "/metrics"                         READ   => host::metrics,
    GET    "/healthz"                         PUBLIC => host::healthz,
    GET    "/openapi.json"                    READ   => host::openapi,
    POST   "/session"                         READ   => session::begin,
    DELETE "/session"                         PUBLIC => session::end,
};

impl Route {
    /// The variable segments of `path`; `None` if `path` does not match.
    fn params(&self, path: &str) -> Option<PathParams> {
        let mut params = PathParams::new();
        let mut rest = Some(path);
        for expected in self.path.split('/') {
            let left = rest?;
            let variable = expected.strip_prefix('{');
            let variable = variable.and_then(|variable| variable.strip_suffix('}'));
            if let Some(name) = variable.and_then(|name| name.strip_prefix('*')) {
                params.push((name, left.to_owned()));
                return Some(params);
            }
            let (segment, after) = match left.split_once('/') {
                Some((segment, after)) => (segment, Some(after)),
                None => (left, None),
            };
            match variable {
                Some(name) => params.push((name, segment.to_owned())),
                None if segment == expected => {}
                None => return None,
            }
            rest = after;
        }
        rest.is_none().then_some(params)
    }

    /// The path that has these variable segments: the inverse of [`Route::params`].
    pub(super) fn address(&self, params: &PathParams) -> String {
        let value = |segment: &str| {
            let name = segment.trim_start_matches(['{', '*']).trim_end_matches('}');
            let found = params.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.clone())
        };
        let segments = self.path.split('/').map(|segment| {
            let variable = segment.starts_with('{').then(|| value(segment));
            variable.flatten().unwrap_or_else(|| segment.to_owned())
        });
        segments.collect::<Vec<_>>().join("/")
    }
}

/// The entries of the table for a request.
#[derive(Debug, Default)]
pub(super) struct Match {
    /// The route, if the address accepts the method.
    pub(super) route: Option<(&'static Route, PathParams)>,
    /// The methods that the address accepts, as `Allow` lists them; `None` for an unknown address.
    pub(super) allow: Option<String>,
    /// The address, or the whole server, takes the method.
    pub(super) takes_method: bool,
}

/// Looks `path` up; `method` is `GET` for `HEAD`. A target without a path (`OPTIONS *`) is the whole server.
pub(super) fn find(method: &Method, path: &str) -> Match {
    let is_server = !path.starts_with('/');
    let mut found = Match::default();
    let mut methods = Vec::new();
    for route in ROUTES {
        let params = route.params(path);
        if params.is_some() || is_server {
            methods.push(&route.method);
        }
        if let Some(params) = params.filter(|_| route.method == *method) {
            found.route = Some((route, params));
        }
    }
    found.takes_method = methods.contains(&method);
    let order = [Method::GET, Method::POST, Method::PUT, Method::DELETE];
    let taken = order.iter().filter(|method| methods.contains(method));
    let names = taken.map(|method| match *method {
        Method::GET => "GET, HEAD",
        ref other => other.as_str(),
    });
    found.allow = (!methods.is_empty()).then(|| {
        let names: Vec<&str> = names.chain(["OPTIONS"]).collect();
        names.join(", ")
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(path: &str) -> Option<String> {
        find(&Method::OPTIONS, path).allow
    }

    #[test]
    fn an_address_allows_the_methods_of_its_routes() {
        for (path, methods) in [
            ("/", "GET, HEAD, OPTIONS"),
            ("/index/", "GET, HEAD, OPTIONS"),
            ("/job/p/1", "GET, HEAD, DELETE, OPTIONS"),
            ("/job/p/1/pin", "PUT, DELETE, OPTIONS"),
            ("/session", "POST, DELETE, OPTIONS"),
            ("/jobs", "POST, OPTIONS"),
            ("*", "GET, HEAD, POST, PUT, DELETE, OPTIONS"),
            ("", "GET, HEAD, POST, PUT, DELETE, OPTIONS"),
        ] {
            assert_eq!(allow(path).as_deref(), Some(methods), "{path}");
        }
        for path in [
            "//",
            "/jobs/",
            "/job/p",
            "/job/p/1/",
            "/static/a/b",
            "/Jobs",
            "/x",
        ] {
            assert_eq!(allow(path), None, "{path}");
        }
        assert!(find(&Method::GET, "*").route.is_none());
    }

    #[test]
    fn variable_segments_are_named_and_may_be_empty() {
        let params = |path| find(&Method::GET, path).route.unwrap().1;
        let job = [("project", "a%2Fb".to_owned()), ("id", String::new())];
        assert_eq!(params("/job/a%2Fb/"), job);
        assert_eq!(params("/artifacts/p/1").len(), 2);
        assert_eq!(params("/artifacts/p/1/")[2], ("path", String::new()));
        assert_eq!(
            params("/artifacts/p/1/a//b/")[2],
            ("path", "a//b/".to_owned())
        );
    }
}
