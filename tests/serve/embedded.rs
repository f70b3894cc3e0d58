//! The service as a library, in this process: for what the program has no option for, and scores that fail.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lorb_engine::Result;
use lorb_engine::device::AnyDevice;
use lorb_engine::device::cpu::{Cpu, Isa};
use lorb_engine::model::BaseModel;
use lorb_engine::rescore::scorer::Bank;
use lorb_engine::serve::{Config, Limits, Score, Service, bind, serve};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::harness::write_adapters;
use crate::http::{Connection, Response, request};
use crate::support::cli::Desk;

pub struct Embedded {
    pub address: SocketAddr,
    runtime: Runtime,
    served: JoinHandle<Result<()>>,
    stop: oneshot::Sender<()>,
    _desk: Desk,
}

impl Embedded {
    /// With the adapters "a" and "b", whose scores come from `score`.
    pub fn start(limits: Limits, score: impl FnOnce(Arc<Bank>) -> Box<Score>) -> Embedded {
        Embedded::within(1 << 20, limits, score)
    }

    /// The same with so many bytes for adapters.
    pub fn within(
        adapter_bytes: usize,
        limits: Limits,
        score: impl FnOnce(Arc<Bank>) -> Box<Score>,
    ) -> Embedded {
        let desk = Desk::new();
        write_adapters(&desk, &["a", "b"]);
        let config = Config {
            adapters: Some(desk.path("adapters")),
            adapter_bytes,
            cache_bytes: 0,
            token: None,
            admin_token: None,
            log_text: false,
            limits,
        };
        let device = AnyDevice::Cpu(Cpu::new(Isa::available()[0]));
        let model = BaseModel::open(&desk.path("base")).unwrap();
        let (service, computing) = Service::start_with(device, model, config, score).unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(bind("127.0.0.1:0".parse().unwrap())).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = runtime.spawn(serve(service, computing, listener, async { drop(stopped.await) }));
        Embedded { address, runtime, served, stop, _desk: desk }
    }

    /// On a connection of its own.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Response {
        let bytes = request(method, path, "Connection: close\r\n", body);
        Connection::open(self.address).exchange(&bytes).unwrap()
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(self) -> Result<()> {
        self.stop.send(()).unwrap();
        self.runtime.block_on(self.served).unwrap()
    }

    /// Waits until it has ended by itself.
    pub fn ended(self) -> Result<()> {
        let Embedded { runtime, served, stop: _not_yet, .. } = self;
        let patient = async { tokio::time::timeout(Duration::from_secs(30), served).await };
        runtime.block_on(patient).expect("it goes on").unwrap()
    }
}
