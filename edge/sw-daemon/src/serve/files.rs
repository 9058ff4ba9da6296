//! Files and directories (node-services.md §8.2).

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio_stream::StreamExt as _;
use tokio_util::io::ReaderStream;

use super::web::{Body, plain, whole};
use crate::local_api::unescape;

/// Entries of one directory that are listed.
const ENTRIES_MAX: usize = 10_000;
/// What a directory shows of itself.
const INDEX: &str = "index.html";
/// Kinds by the end of the name; everything else is bytes.
const KINDS: [(&str, &str); 20] = [
    ("avif", "image/avif"),
    ("css", "text/css; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("gif", "image/gif"),
    ("htm", "text/html; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("md", "text/markdown; charset=utf-8"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("mp4", "video/mp4"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("txt", "text/plain; charset=utf-8"),
    ("wasm", "application/wasm"),
    ("webp", "image/webp"),
    ("xml", "text/xml; charset=utf-8"),
];

/// Answers with what lies at `root` below `mount`.
pub(super) async fn answer(root: &str, mount: &str, request: &Request<Incoming>) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "files can be read only\n");
    }
    let path = request.uri().path();
    let inside = unescape(path.strip_prefix(mount).unwrap_or_default().trim_start_matches('/'));
    match find(Path::new(root), &inside).await {
        Ok(found) if found.is_dir() && !path.ends_with('/') => to_directory(path),
        Ok(found) if found.is_dir() => match file(&found.join(INDEX)).await {
            Ok(page) => page,
            Err(_) => listing(&found, path).await.unwrap_or_else(|error| failed(&error)),
        },
        Ok(found) => file(&found).await.unwrap_or_else(|error| failed(&error)),
        Err(error) => failed(&error),
    }
}

/// The real place of `inside` below `root`: links and dots lead nowhere else.
async fn find(root: &Path, inside: &str) -> io::Result<PathBuf> {
    let root = tokio::fs::canonicalize(root).await?;
    if inside.is_empty() {
        return Ok(root);
    }
    let found = tokio::fs::canonicalize(root.join(inside)).await?;
    if found.starts_with(&root) { Ok(found) } else { Err(io::ErrorKind::NotFound.into()) }
}

fn failed(error: &io::Error) -> Response<Body> {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return plain(StatusCode::FORBIDDEN, "this file may not be read\n");
    }
    // A file in the place of a directory is no file by that name either.
    plain(StatusCode::NOT_FOUND, "there is no such file\n")
}

async fn file(path: &Path) -> io::Result<Response<Body>> {
    let file = tokio::fs::File::open(path).await?;
    let meta = file.metadata().await?;
    if !meta.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let stream = ReaderStream::new(file).map(|part| part.map(Frame::data));
    let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
    let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default().to_ascii_lowercase();
    let kind =
        KINDS.iter().find(|(known, _)| *known == end).map_or("application/octet-stream", |(_, kind)| *kind);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(meta.len()));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// Names in a directory are relative to its slash.
fn to_directory(path: &str) -> Response<Body> {
    let mut response = plain(StatusCode::MOVED_PERMANENTLY, "");
    let last = path.rsplit('/').next().unwrap_or_default();
    if let Ok(location) = HeaderValue::from_str(&format!("{last}/")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

async fn listing(directory: &Path, path: &str) -> io::Result<Response<Body>> {
    let mut names = Vec::new();
    let mut entries = tokio::fs::read_dir(directory).await?;
    while let Some(entry) = entries.next_entry().await? {
        let is_directory = tokio::fs::metadata(entry.path()).await.is_ok_and(|meta| meta.is_dir());
        names.push(entry.file_name().to_string_lossy().into_owned() + if is_directory { "/" } else { "" });
        if names.len() >= ENTRIES_MAX {
            break;
        }
    }
    names.sort_unstable();
    let title = escaped(&unescape(path));
    let mut page = format!(
        "<!doctype html><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>{title}</title>\
         <style>body{{font:16px/1.6 system-ui;margin:2rem auto;max-width:48rem;padding:0 1rem}}\
         @media(prefers-color-scheme:dark){{body{{background:#161513;color:#e8e4dc}}a{{color:#8ab4f8}}}}</style>\
         <h1>{title}</h1><ul>"
    );
    for name in names {
        let _infallible = write!(page, "<li><a href=\"./{}\">{}</a>", link(&name), escaped(&name));
    }
    let mut response = whole(page + "</ul>");
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn link(name: &str) -> String {
    name.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _infallible = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_outside_of_the_root_is_found() {
        let base = std::env::temp_dir().join(format!("sw-serve-{}", std::process::id()));
        let root = base.join("root");
        std::fs::create_dir_all(root.join("in")).expect("a directory");
        std::fs::write(base.join("secret"), "x").expect("a file");
        std::fs::write(root.join("in/page"), "x").expect("a file");
        std::os::unix::fs::symlink(base.join("secret"), root.join("link")).expect("a link");
        assert!(find(&root, "in/page").await.is_ok());
        assert!(find(&root, "").await.is_ok());
        for outside in ["../secret", "in/../../secret", "link", "/etc/passwd", "none"] {
            assert!(find(&root, outside).await.is_err(), "{outside}");
        }
        std::fs::remove_dir_all(&base).expect("our own directory");
    }

    #[test]
    fn names_cannot_become_code() {
        assert_eq!(escaped("<b>\"&"), "&lt;b&gt;&quot;&amp;");
        assert_eq!(link("a b<\">ü/"), "a%20b%3C%22%3E%C3%BC/");
    }
}
