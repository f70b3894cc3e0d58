//! Bearer tokens, compared without telling how much of one was right.

use std::fmt;
use std::fs;
use std::path::Path;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::problem::Problem;
use crate::{Error, Result};

/// A token that a client must show. Only its hash is kept, so that all comparisons have one length.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// That of a [token file](read_token).
    ///
    /// # Errors
    /// As for [`read_token`].
    pub fn open(path: &Path) -> Result<Secret> {
        Ok(Secret::new(&read_token(path)?))
    }

    pub fn new(token: &str) -> Secret {
        Secret(Sha256::digest(token.as_bytes()).into())
    }

    /// Whether the request shows this token.
    pub(super) fn is_shown(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = shown.and_then(|value| value.split_once(' '));
        match token {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                Secret::new(token.trim()).0.ct_eq(&self.0).into()
            }
            _ => false,
        }
    }
}

/// The token in the first line of a file.
///
/// # Errors
/// [`Error::Io`] where it cannot be read, [`Error::File`] where it is shorter than 16 bytes.
pub fn read_token(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).map_err(|e| Error::io(path, "read it", e))?;
    let token = text.lines().next().unwrap_or_default().trim();
    if token.len() < 16 {
        let hint = "write at least 16 characters, as `openssl rand -hex 32` gives";
        return Err(Error::file(path, "its first line is too short for a token", hint));
    }
    Ok(token.into())
}

/// Never the hash.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Refuses a request without the token that is asked for.
pub(super) fn check(secret: Option<&Secret>, headers: &HeaderMap) -> Result<(), Problem> {
    match secret {
        Some(secret) if !secret.is_shown(headers) => Err(Problem::unauthorized()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_itself_is_right() {
        let secret = Secret::new("correct horse battery");
        let shown = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            check(Some(&secret), &headers).is_ok()
        };
        assert!(shown("Bearer correct horse battery") && shown("bearer  correct horse battery"));
        for wrong in ["correct horse battery", "Bearer", "Bearer ", "Basic correct horse battery"] {
            assert!(!shown(wrong), "{wrong}");
        }
        assert!(!shown("Bearer correct horse batter") && !shown("Bearer correct horse battery2"));
        assert!(check(Some(&secret), &HeaderMap::new()).is_err());
        assert!(check(None, &HeaderMap::new()).is_ok());
        assert_eq!(format!("{secret:?}"), "Secret");
    }
}
