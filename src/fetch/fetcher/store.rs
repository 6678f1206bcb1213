//! The object store: where an object is, which content it has, ranges of it; what is wrong in words.

use std::error::Error as _;
use std::ops::Range;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreScheme, RetryConfig,
};
use url::Url;

use crate::fetch::message::{Identity, Tag};

/// How long a connection may take to be made, and a server to go on sending.
const CONNECT: Duration = Duration::from_secs(5);
const STALLED: Duration = Duration::from_secs(10);

/// How long a failing request is tried again: shorter than a reader waits.
const AGAIN: Duration = Duration::from_secs(8);

/// What is wrong with an object, in words that say what was expected. The URL is said by who shows it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Wrong(pub String);

fn wrong(text: impl Into<String>) -> Wrong {
    Wrong(text.into())
}

/// An object in its store.
#[derive(Debug)]
pub struct Object {
    url: String,
    path: Path,
    store: Box<dyn ObjectStore>,
}

impl Object {
    /// The object of a URL. Nothing is asked of a server. Credentials, endpoints and regions are in the environment variables
    /// that the store's own tools read.
    pub fn new(url: &str) -> Result<Self, Wrong> {
        // Fails where one was installed before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let parsed = Url::parse(url).map_err(|error| wrong(format!("not a URL: {error}")))?;
        if parsed.query().is_some() || parsed.fragment().is_some() {
            return Err(wrong("a URL with a query or a fragment: expected the object's address alone"));
        }
        let scheme = ObjectStoreScheme::parse(&parsed);
        let (scheme, path) = scheme.map_err(|error| wrong(format!("not the URL of an object: {error}")))?;
        if path.as_ref().is_empty() {
            return Err(wrong("the URL names no object: expected a path behind the host or bucket"));
        }
        let store = store(&scheme, url, &parsed).map_err(|error| wrong(in_words(&error)))?;
        Ok(Self { url: url.to_owned(), path, store })
    }

    /// Asks which content the object has.
    pub async fn identity(&self) -> Result<Identity, Wrong> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        let got = self.store.get_opts(&self.path, options).await.map_err(|error| wrong(in_words(&error)))?;
        let tag = tag(&got.meta, true).ok_or_else(|| {
            wrong("the server says neither ETag nor Last-Modified: expected one, by which a change is noticed")
        })?;
        Ok(Identity { url: self.url.clone(), tag, len: got.meta.size })
    }

    /// Asks for a range of a content of the object.
    pub async fn range(
        &self,
        identity: &Identity,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<bytes::Bytes, Wrong>>, Wrong> {
        let mut options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        if let Tag::Etag(etag) = &identity.tag
            && !etag.starts_with("W/")
        {
            // A weak tag never matches here, by the rules of HTTP.
            options.if_match = Some(etag.clone());
        }
        let got = match self.store.get_opts(&self.path, options).await {
            Ok(got) => got,
            Err(object_store::Error::Precondition { .. }) => {
                return Err(changed(&identity.tag.to_string(), identity.len, "another one"));
            }
            Err(error) => return Err(wrong(in_words(&error))),
        };
        // A server need not have looked at what the request said.
        let found = tag(&got.meta, matches!(identity.tag, Tag::Etag(_)));
        if found.as_ref() != Some(&identity.tag) || got.meta.size != identity.len {
            let found = found.map_or_else(|| "none".to_owned(), |tag| tag.to_string());
            let found = format!("{found} with {} bytes", got.meta.size);
            return Err(changed(&identity.tag.to_string(), identity.len, &found));
        }
        Ok(got.into_stream().map(|part| part.map_err(|error| wrong(in_words(&error)))).boxed())
    }
}

fn changed(expected: &str, len: u64, found: &str) -> Wrong {
    wrong(format!("the base has changed: expected {expected} with {len} bytes, found {found}"))
}

/// What tells the content of an object: its ETag, if that may be, or the time of its last change.
fn tag(meta: &ObjectMeta, etag: bool) -> Option<Tag> {
    let seconds = meta.last_modified.timestamp();
    match &meta.e_tag {
        Some(tag) if etag => Some(Tag::Etag(tag.clone())),
        // A server that does not say it counts as one of 1970.
        _ => (seconds != 0).then_some(Tag::LastModified(seconds)),
    }
}

fn client() -> ClientOptions {
    // Without a limit on the whole: a slow link is one that goes on.
    ClientOptions::new().with_connect_timeout(CONNECT).with_timeout_disabled().with_read_timeout(STALLED)
}

fn retry() -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(2), base: 2.0 };
    RetryConfig { backoff, max_retries: 4, retry_timeout: AGAIN }
}

/// Whether no way to credentials is in the environment.
fn is_anonymous(names: &[&str]) -> bool {
    names.iter().all(|name| std::env::var_os(name).is_none_or(|value| value.is_empty()))
}

fn store(scheme: &ObjectStoreScheme, url: &str, parsed: &Url) -> object_store::Result<Box<dyn ObjectStore>> {
    // Servers of one's own are often spoken to without TLS, where the environment says so by their address.
    let plain = |names: &[&str]| {
        names.iter().filter_map(|name| std::env::var(name).ok()).any(|address| address.starts_with("http://"))
    };
    Ok(match scheme {
        ObjectStoreScheme::AmazonS3 => {
            let plain = plain(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]);
            let mut builder = AmazonS3Builder::from_env()
                .with_url(url)
                .with_client_options(client().with_allow_http(plain))
                .with_retry(retry());
            if let Ok(endpoint) = std::env::var("AWS_ENDPOINT_URL_S3") {
                builder = builder.with_endpoint(endpoint);
            }
            let credentials = [
                "AWS_ACCESS_KEY_ID",
                "AWS_WEB_IDENTITY_TOKEN_FILE",
                "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            ];
            if plain
                && is_anonymous(&credentials)
                && builder.get_config_value(&AmazonS3ConfigKey::SkipSignature).is_none()
            {
                // There is no instance whose credentials could be asked for.
                builder = builder.with_skip_signature(true);
            }
            Box::new(builder.build()?)
        }
        ObjectStoreScheme::GoogleCloudStorage => Box::new(
            GoogleCloudStorageBuilder::from_env()
                .with_url(url)
                .with_client_options(client())
                .with_retry(retry())
                .build()?,
        ),
        ObjectStoreScheme::MicrosoftAzure => {
            let plain = plain(&["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"]);
            let client = client().with_allow_http(plain);
            let builder = MicrosoftAzureBuilder::from_env().with_url(url).with_client_options(client);
            Box::new(builder.with_retry(retry()).build()?)
        }
        ObjectStoreScheme::Http => {
            let server = &parsed[..url::Position::BeforePath];
            let client = client().with_allow_http(true);
            Box::new(HttpBuilder::new().with_url(server).with_client_options(client).with_retry(retry()).build()?)
        }
        other => {
            let source = format!("{other:?} is not a store that is reached by network").into();
            return Err(object_store::Error::Generic { store: "URL", source });
        }
    })
}

/// An error in one line, the causes of most use only.
fn in_words(error: &object_store::Error) -> String {
    use object_store::Error;
    let status = || status_of(error).map(|status| format!(" ({status})")).unwrap_or_default();
    match error {
        Error::NotFound { .. } => "no such object: expected one there".to_owned(),
        Error::Unauthenticated { .. } => {
            format!("the server wants credentials{}: expected them in the environment", status())
        }
        Error::PermissionDenied { .. } => {
            format!("the server refuses{}: expected credentials in the environment that may read the object", status())
        }
        other => {
            let all = chain(other);
            let words = ["Range request not supported", "non-partial response", "Content-Range header not present"];
            if words.iter().any(|words| all.contains(words)) {
                return "the server sends no ranges: expected one that answers a Range with status 206".to_owned();
            }
            deepest(other)
        }
    }
}

/// The status of the answer, where an error tells it.
fn status_of(error: &object_store::Error) -> Option<&'static str> {
    let all = chain(error);
    [("401", "status 401"), ("403", "status 403")]
        .into_iter()
        .find(|(code, _)| all.contains(code))
        .map(|(_, text)| text)
}

/// All that an error says.
fn chain(error: &object_store::Error) -> String {
    let mut all = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        all = format!("{all}: {next}");
        cause = next.source();
    }
    all
}

/// What lies below all: what the system, the resolver or the TLS library has said.
fn deepest(error: &object_store::Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(next) = cause {
        texts.push(next.to_string());
        cause = next.source();
    }
    let last = texts.pop().unwrap_or_default();
    // Bodies of answers have lines.
    last.split_whitespace().collect::<Vec<_>>().join(" ")
}
