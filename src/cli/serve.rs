use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, value_parser};
use lorb_engine::serve::{Config, Limits, Secret, Service, bind, serve};
use lorb_engine::{Error, Result, atomic};

use super::{Compute, open_model};

/// Rescore N-best lists over HTTP
///
/// GET /openapi.json describes the interface; / is a page to try it. The program ends with SIGTERM or SIGINT, once
/// all requests that it accepted are answered; a second one ends it at once. It exits with 1 where it cannot compute
/// any more.
#[derive(Args)]
pub struct Serve {
    /// A Hugging Face BERT: its folder, or its id on the Hub, ORG/NAME or ORG/NAME@REVISION
    #[arg(long, value_name = "DIR|ID")]
    model: Option<PathBuf>,
    /// A folder of adapters: each of its folders is one, and its name is the folder's
    #[arg(long, value_name = "DIR")]
    adapters: Option<PathBuf>,
    /// The address and port; port 0 picks a free one, which the log tells
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8750")]
    listen: SocketAddr,
    /// A file with the bearer token for all requests under /v1
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A file with the bearer token for loading and unloading adapters [default: that of --token-file]
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// Memory for adapters in MiB; the least recently used make room for others
    #[arg(long, value_name = "MIB", default_value_t = 2048, value_parser = value_parser!(u32).range(1..))]
    adapter_memory: u32,
    /// Memory for scores that are known already, in MiB; 0 keeps none
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    cache_memory: u32,
    /// The largest body of a request in KiB
    #[arg(long, value_name = "KIB", default_value_t = 1024, value_parser = value_parser!(u32).range(1..=1 << 20))]
    max_body: u32,
    /// The most hypotheses of an utterance
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = value_parser!(u32).range(1..))]
    max_hypotheses: u32,
    /// The most tokens of a request
    #[arg(long, value_name = "N", default_value_t = 65_536, value_parser = value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// The tokens that may wait; beyond them requests are refused at once, with 503
    #[arg(long, value_name = "N", default_value_t = 131_072, value_parser = value_parser!(u32).range(1..))]
    queue_tokens: u32,
    /// The tokens of a batch [default: 384 for each worker thread, or 4096 on a GPU]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    batch_tokens: Option<u32>,
    /// The longest that a request waits for its scores once its body is read, in milliseconds, whatever deadline it
    /// gives
    #[arg(long, value_name = "MS", default_value_t = 2000, value_parser = value_parser!(u64).range(1..=600_000))]
    max_wait: u64,
    /// The most connections
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = value_parser!(u32).range(1..=1 << 20))]
    max_connections: u32,
    /// How long a client may take to send the head of a request, and then its body, and how long it may take nothing of
    /// its answer, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = value_parser!(u64).range(1..))]
    read_timeout: u64,
    /// Write the text of the best hypotheses into the log
    #[arg(long)]
    log_text: bool,
    #[command(flatten)]
    compute: Compute,
}

impl Serve {
    pub fn run(self) -> Result<()> {
        // Whoever reads the log may stop: then lines are lost, but no request waits.
        let (log, _until_the_end) =
            tracing_appender::non_blocking::NonBlockingBuilder::default().finish(std::io::stderr());
        tracing_subscriber::fmt().json().flatten_event(true).with_target(false).with_writer(log).init();
        let secret = |path: &Option<PathBuf>| path.as_deref().map(Secret::open).transpose();
        let config = Config {
            adapters: self.adapters.clone(),
            adapter_bytes: (self.adapter_memory as usize) << 20,
            cache_bytes: (self.cache_memory as usize) << 20,
            token: secret(&self.token_file)?,
            admin_token: secret(&self.admin_token_file)?,
            log_text: self.log_text,
            limits: self.limits(),
        };
        if !self.listen.ip().is_loopback() && config.token.is_none() {
            tracing::warn!("everybody who reaches this address may use the service: see --token-file");
        }
        let device = self.compute.start()?;
        let description = device.description();
        let model = open_model(&self.model)?;
        let name = model.name.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(8)
            .thread_name("http")
            .enable_all()
            .build()
            .map_err(|e| Error::Usage(format!("cannot start the HTTP threads: {e}")))?;
        let listener = runtime.block_on(bind(self.listen))?;
        let (service, computing) = Service::start(device, model, config)?;
        runtime.block_on(async {
            let stop = stopped()?;
            let address =
                listener.local_addr().map_err(|e| Error::io("<socket>", "ask for its address", e))?;
            tracing::info!(address = %address, model = name, device = description, "listening");
            serve(service, computing, listener, stop).await
        })?;
        tracing::info!("ended");
        Ok(())
    }

    fn limits(&self) -> Limits {
        Limits {
            body_bytes: (self.max_body as usize) << 10,
            hypotheses: self.max_hypotheses as usize,
            tokens: self.max_tokens as usize,
            queue_tokens: self.queue_tokens as usize,
            batch_tokens: self.batch_tokens.map(|n| n as usize),
            connections: self.max_connections as usize,
            max_wait: Duration::from_millis(self.max_wait),
            read_timeout: Duration::from_millis(self.read_timeout),
            ..Limits::default()
        }
    }
}

/// Ends when the program should: with the first signal. The second ends the program at once.
fn stopped() -> Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|e| Error::io("<signals>", "listen for them", e));
    let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    // Beside the service, since it may end by itself, and a signal counts then, too.
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = term.recv() => ("SIGTERM", SignalKind::terminate()),
                _ = int.recv() => ("SIGINT", SignalKind::interrupt()),
            }
        };
        let (name, _) = next().await;
        tracing::info!("{name}: no more connections");
        let _ = stop.send(());
        let (_, second) = next().await;
        atomic::exit(128 + second.as_raw_value());
    });
    Ok(async { drop(stopped.await) })
}
