//! Objects by their names: in storage that speaks S3, or in a folder.

use crate::{Error, Result};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientConfigKey, Error as Problem, ObjectStore, ObjectStoreExt, RetryConfig,
};
use std::io;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

const FORMS: &str = "it is s3://BUCKET/FOLDER, or file:///FOLDER";

/// How often a request is tried again, and for how long.
const AGAIN: usize = 3;
const AGAIN_FOR: Duration = Duration::from_secs(20);

/// Objects whose names begin with a folder.
pub(super) struct Objects {
    store: Box<dyn ObjectStore>,
    folder: Path,
    /// What requests run on; none while it ends.
    runtime: Option<Runtime>,
}

impl Drop for Objects {
    fn drop(&mut self) {
        // Who drops it may be a task of another runtime, which must not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What an address names.
enum Address<'u> {
    S3 { bucket: &'u str, folder: Path },
    Folder(&'u str),
}

impl<'u> Address<'u> {
    fn parse(url: &'u str) -> Result<Self> {
        match url.split_once("://") {
            Some(("s3", rest)) if !rest.is_empty() && !rest.starts_with('/') => {
                let (bucket, folder) = rest.split_once('/').unwrap_or((rest, ""));
                let folder = Path::parse(folder).map_err(|problem| refused(url, problem))?;
                Ok(Self::S3 { bucket, folder })
            }
            Some(("file", folder)) if folder.starts_with('/') => Ok(Self::Folder(folder)),
            _ => Err(refused(url, FORMS)),
        }
    }
}

fn refused(url: &str, limit: impl ToString) -> Error {
    Error::argument("the prefix bucket", url, limit.to_string())
}

impl Objects {
    /// Refuses what is no address.
    pub(super) fn check(url: &str) -> Result<()> {
        Address::parse(url).map(drop)
    }

    pub(super) fn open(url: &str) -> Result<Self> {
        let failed = |source| Error::Io { path: "the thread of the prefix bucket".into(), source };
        let (store, folder): (Box<dyn ObjectStore>, _) = match Address::parse(url)? {
            Address::S3 { bucket, folder } => {
                let store = s3(bucket).build().map_err(|problem| refused(url, problem))?;
                (Box::new(store), folder)
            }
            Address::Folder(folder) => {
                let made = std::fs::create_dir_all(folder);
                made.map_err(|source| Error::Write { path: folder.into(), source })?;
                let store = LocalFileSystem::new_with_prefix(folder);
                (Box::new(store.map_err(|problem| refused(url, problem))?), Path::default())
            }
        };
        let mut runtime = Builder::new_multi_thread();
        runtime.worker_threads(1).thread_name("prefix bucket").enable_all();
        let runtime = Some(runtime.build().map_err(failed)?);
        Ok(Self { store, folder, runtime })
    }

    /// Waits on a thread that may for what requests make.
    pub(super) fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.as_ref().expect("it has not ended").block_on(work)
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.folder.clone(), |path, part| path.join(part))
    }

    pub(super) async fn contains(&self, name: &str) -> io::Result<bool> {
        there(self.store.head(&self.path(name)).await).map(|found| found.is_some())
    }

    pub(super) async fn get(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(found) = there(self.store.get(&self.path(name)).await)? else { return Ok(None) };
        Ok(there(found.bytes().await)?.map(Vec::from))
    }

    /// Puts an object there, whole or not at all.
    pub(super) async fn put(&self, name: &str, bytes: Vec<u8>) -> io::Result<()> {
        self.store.put(&self.path(name), bytes.into()).await.map(drop).map_err(said)
    }

    pub(super) async fn remove(&self, name: &str) -> io::Result<()> {
        there(self.store.delete(&self.path(name)).await).map(drop)
    }
}

// What is not there is no problem.
fn there<T>(answer: object_store::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Problem::NotFound { .. }) => Ok(None),
        Err(problem) => Err(said(problem)),
    }
}

// A problem in one line, down to what it came from.
fn said(problem: Problem) -> io::Error {
    let mut words = problem.to_string();
    let mut cause: &dyn std::error::Error = &problem;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let last = cause.to_string();
    if !words.contains(&last) {
        words = format!("{words}: {last}");
    }
    io::Error::other(words.split_whitespace().collect::<Vec<_>>().join(" "))
}

// A bucket, with keys and region as the environment has them for all programs that speak S3.
fn s3(bucket: &str) -> AmazonS3Builder {
    // Others in this program may have chosen theirs.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
    let client = |key, seconds: &str| (AmazonS3ConfigKey::Client(key), seconds.to_owned());
    let usual =
        [client(ClientConfigKey::ConnectTimeout, "3 s"), client(ClientConfigKey::Timeout, "30 s")];
    let builder = usual.into_iter().fold(builder, |builder, (key, value)| {
        // The environment's come first.
        match builder.get_config_value(&key) {
            Some(_) => builder,
            None => builder.with_config(key, value),
        }
    });
    let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
    // Who names such an endpoint wants it.
    let is_plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let builder = if is_plain { builder.with_allow_http(true) } else { builder };
    let backoff = BackoffConfig::default();
    builder.with_retry(RetryConfig { backoff, max_retries: AGAIN, retry_timeout: AGAIN_FOR })
}
