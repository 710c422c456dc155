//! `--prefix-cache`: a directory of what conversations begin with.

use super::cache::parse_size;
use super::terminal::note;
use asynctls::engine::{EngineOptions, SessionFormat};
use asynctls::model::{ModelConfig, ModelFile};
use asynctls::serve::PrefixCache;
use asynctls::{Error, Result};
use clap::Args;
use std::path::PathBuf;

/// The options of a prefix cache.
#[derive(Args, Debug)]
pub struct PrefixOptions {
    /// A directory to keep what prompts begin with in: it is not computed again, after a restart either, nor by other processes that are
    /// given the same directory
    #[arg(long, value_name = "DIR", help_heading = "KV cache")]
    prefix_cache: Option<PathBuf>,
    /// The most bytes of that directory, such as 200G; what was used the longest ago goes first [default: 64G]
    #[arg(
        long,
        value_name = "SIZE",
        help_heading = "KV cache",
        requires = "prefix_cache",
        allow_hyphen_values = true
    )]
    prefix_cache_size: Option<String>,
    /// A bucket that other machines share, s3://BUCKET/FOLDER or file:///FOLDER: what that directory lacks comes from there, and what it
    /// gets goes there too. Keys, region and endpoint are AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL and so on in the environment
    #[arg(long, value_name = "URL", help_heading = "KV cache", requires = "prefix_cache")]
    prefix_bucket: Option<String>,
}

impl PrefixOptions {
    /// Refuses them where a run answers one conversation alone.
    pub fn refuse(&self) -> Result<()> {
        let Some(directory) = &self.prefix_cache else { return Ok(()) };
        let limit = "it is for many prompts: use --batch, or --session for one conversation";
        Err(Error::argument("--prefix-cache", directory.display(), limit))
    }

    /// Checks what can be checked without a model.
    pub fn check(&self) -> Result<()> {
        self.size()?;
        self.prefix_bucket.as_deref().map_or(Ok(()), PrefixCache::check_bucket)
    }

    fn size(&self) -> Result<u64> {
        let size = self.prefix_cache_size.as_deref();
        size.map_or(Ok(PrefixCache::BYTES), |text| parse_size("--prefix-cache-size", text))
    }

    /// The prefix cache of an engine, if one is wanted.
    pub fn of(
        &self,
        file: &ModelFile,
        config: &ModelConfig,
        engine: &EngineOptions,
    ) -> Result<Option<PrefixCache>> {
        let Some(directory) = &self.prefix_cache else { return Ok(None) };
        let format = SessionFormat::new(file, config, engine);
        let warn = |line: &str| note(&format!("warning: {line}"));
        let cache = PrefixCache::new(directory, format);
        let bucket = self.prefix_bucket.clone();
        Ok(Some(PrefixCache { bytes: self.size()?, bucket, warn, ..cache }))
    }
}
