//! The other side: a program that asks a service.

use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::wire::{Answer, Ask};
use crate::{Error, Result};

/// A service, as one that asks it sees it.
pub struct Client {
    agent: ureq::Agent,
    url: String,
    token: Option<String>,
}

/// How often a service is asked that says to come again.
const ATTEMPTS: usize = 20;

impl Client {
    /// `url` as "http://127.0.0.1:8750".
    ///
    /// # Errors
    /// [`Error::Usage`] where it is none.
    pub fn new(url: &str, token: Option<String>) -> Result<Client> {
        if !url.starts_with("http://") {
            let hint = "give it as http://HOST:PORT; for https put a proxy before the service";
            return Err(Error::Usage(format!("{url:?} is no address of a service: {hint}")));
        }
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        let agent = config.timeout_global(Some(Duration::from_secs(300))).build().new_agent();
        Ok(Client { agent, url: format!("{}/v1/rescore", url.trim_end_matches('/')), token })
    }

    /// Waits where the service is full, and asks for half as much where that is too much at once, or more than can be
    /// scored by the deadline.
    ///
    /// # Errors
    /// [`Error::Service`] where it cannot be reached or refuses.
    pub fn rescore(&self, ask: &Ask) -> Result<Answer> {
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            let (status, wait, body) = self.send(ask)?;
            if status == 200 {
                return serde_json::from_slice(&body)
                    .map_err(|e| self.failed(&format!("answered something else: {e}")));
            }
            let (code, reason) = refusal(&body);
            if (status == 413 || code == "deadline") && ask.utterances.len() > 1 {
                return self.in_halves(ask);
            }
            last = format!("{status} {code}: {reason}");
            match wait {
                Some(seconds) if status == 503 => thread::sleep(Duration::from_secs(seconds)),
                _ => return Err(self.failed(&format!("refused with {last}"))),
            }
        }
        Err(self.failed(&format!("refused {ATTEMPTS} times, at last with {last}")))
    }

    fn in_halves(&self, ask: &Ask) -> Result<Answer> {
        let (first, second) = ask.utterances.split_at(ask.utterances.len() / 2);
        let half = |part: &[_]| self.rescore(&Ask { utterances: part.to_vec(), ..ask.clone() });
        let (mut first, second) = (half(first)?, half(second)?);
        first.utterances.extend(second.utterances);
        Ok(first)
    }

    /// Status, Retry-After and body of the answer.
    fn send(&self, ask: &Ask) -> Result<(u16, Option<u64>, Vec<u8>)> {
        let mut request = self.agent.post(&self.url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let unreachable = |e: ureq::Error| self.failed(&format!("cannot be asked: {e}"));
        let mut response = request.send_json(ask).map_err(unreachable)?;
        let wait = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        const LARGEST: u64 = 1 << 30;
        let body = response.body_mut().with_config().limit(LARGEST).read_to_vec().map_err(unreachable)?;
        Ok((response.status().as_u16(), wait, body))
    }

    fn failed(&self, problem: &str) -> Error {
        Error::Service(format!("{} {problem}", self.url))
    }
}

/// The code of a refusal and what the service says of it, or the start of whatever it said.
fn refusal(body: &[u8]) -> (String, String) {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &value["error"];
    let reason = match (error["field"].as_str(), error["message"].as_str()) {
        (Some(field), Some(message)) => format!("{field}: {message}"),
        (None, Some(message)) => message.into(),
        _ => String::from_utf8_lossy(body).chars().take(200).collect(),
    };
    (error["code"].as_str().unwrap_or("without a code").into(), reason)
}
