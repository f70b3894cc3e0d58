//! Where the Hub and its cache are, by the environment variables of Hugging Face's own programs.

use std::env;
use std::fs;
use std::path::PathBuf;

use crate::{Error, Result};

pub struct Place {
    /// Without a slash at its end.
    pub endpoint: String,
    pub cache: PathBuf,
    pub token: Option<String>,
    /// Whether only the cache may be asked.
    pub offline: bool,
}

impl Place {
    pub fn from_environment() -> Result<Place> {
        let home = home()?;
        let cache = path("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub"));
        let token = text("HF_TOKEN").or_else(|| {
            let file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
            fs::read_to_string(file).ok()
        });
        let token = token.map(|token| token.trim().to_string()).filter(|token| !token.is_empty());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let offline = text("HF_HUB_OFFLINE").unwrap_or_default();
        Ok(Place {
            endpoint: endpoint.trim_end_matches('/').into(),
            // Links in the cache are made between absolute paths.
            cache: std::path::absolute(&cache).map_err(|e| Error::io(&cache, "find the cache", e))?,
            token,
            offline: ["1", "on", "yes", "true"].contains(&offline.to_lowercase().as_str()),
        })
    }
}

fn home() -> Result<PathBuf> {
    let user = || dirs::home_dir().map(|home| home.join(".cache"));
    let cache = || path("XDG_CACHE_HOME").or_else(user).map(|cache| cache.join("huggingface"));
    path("HF_HOME").or_else(cache).ok_or_else(|| {
        Error::Usage("there is no home folder for the Hugging Face cache: set HF_HOME to a folder".into())
    })
}

/// The variable's value; one that is empty counts as absent.
fn text(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}

fn path(variable: &str) -> Option<PathBuf> {
    let value = env::var_os(variable).filter(|value| !value.is_empty())?;
    let path = PathBuf::from(value);
    match path.strip_prefix("~") {
        Ok(rest) => Some(dirs::home_dir()?.join(rest)),
        Err(_) => Some(path),
    }
}
