//! The page at `/`, which draws, chats and shows the tokens, and the one at `/docs`, which shows the routes.

use std::sync::LazyLock;

use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// Whole: they load nothing else, and ask the routes of this server only.
const PLAY: &str = include_str!("../pages/play.html");
const DOCS: &str = include_str!("../pages/docs.html");

/// Let each page run its own script and style and no others, whatever it shows.
static PLAY_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| policy(PLAY));
static DOCS_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| policy(DOCS));

fn policy(page: &str) -> HeaderValue {
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data: blob:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        digest(page, "script"),
        digest(page, "style"),
    );
    HeaderValue::try_from(policy).expect("the policy is ASCII")
}

/// The page to play with.
pub(super) async fn play() -> Response {
    ([(header::CONTENT_SECURITY_POLICY, PLAY_POLICY.clone())], Html(PLAY)).into_response()
}

/// The page of the routes.
pub(super) async fn docs() -> Response {
    ([(header::CONTENT_SECURITY_POLICY, DOCS_POLICY.clone())], Html(DOCS)).into_response()
}

/// The SHA-256 in base64 of what the only `<tag>` of `html` holds, by which a policy names it.
fn digest(html: &str, tag: &str) -> String {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let content = html.split_once(&open).and_then(|(_, rest)| rest.split_once(&close));
    STANDARD.encode(Sha256::digest(content.map_or("", |(content, _)| content)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_the_script_and_the_style_of_each_page() {
        // From `printf alert | openssl dgst -sha256 -binary | base64`.
        let known = "35BQWN1npAn++BSA6B5HNlcrDttNf7mHxpXNB+Jg7IE=";
        assert_eq!(digest("<p><script>alert</script>", "script"), known);
        for page in [PLAY, DOCS] {
            assert!(!page.contains('\r'), "browsers hash lines that end with \\n");
            for tag in ["script", "style"] {
                assert_eq!(page.matches(&format!("<{tag}>")).count(), 1, "{tag}");
            }
        }
    }

    #[test]
    fn the_pages_ask_nobody_else() {
        for address in ["http:", "https:", "//", "@import", "url("] {
            let of = |line: &&str| {
                let line = line.trim();
                // Comments begin lines.
                line.contains(address) && !line.starts_with("//") && !line.contains("www.w3.org")
            };
            let found: Vec<&str> = PLAY.lines().chain(DOCS.lines()).filter(of).collect();
            assert!(found.is_empty(), "{address}: {found:?}");
        }
    }
}
