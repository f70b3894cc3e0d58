//! Captured graphs.

use std::ptr::null_mut;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUgraph, CUgraphExec, CUstreamCaptureMode};

use super::super::driver::Graph;
use super::call::check;
use super::context::Context;
use super::staging::Pinned;
use crate::Result;

/// Makes the stream record what it is given. Memory may be allocated meanwhile (it is allocated at once, for
/// good), which the stricter modes forbid.
pub fn begin(context: &Context) -> Result<()> {
    context.bind()?;
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    // SAFETY: the stream lives, and is not the legacy one.
    check("cuStreamBeginCapture", unsafe { sys::cuStreamBeginCapture_v2(context.stream(), mode) })
}

/// What was recorded since [`begin`]; `writes` holds the data that it copies.
pub fn end(context: &Arc<Context>, writes: Vec<Pinned>) -> Result<Executable> {
    context.bind()?;
    let mut graph: CUgraph = null_mut();
    // SAFETY: the driver writes one handle, null where the recording went wrong.
    check("cuStreamEndCapture", unsafe { sys::cuStreamEndCapture(context.stream(), &mut graph) })?;
    let mut executable: CUgraphExec = null_mut();
    // SAFETY: the graph is one, and not needed once it is instantiated.
    let (made, _) =
        unsafe { (sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0), sys::cuGraphDestroy(graph)) };
    check("cuGraphInstantiate", made)?;
    Ok(Executable { executable, context: context.clone(), _writes: writes })
}

/// A graph that is ready to run.
pub struct Executable {
    executable: CUgraphExec,
    context: Arc<Context>,
    /// Its copies read from here.
    _writes: Vec<Pinned>,
}

// SAFETY: the driver's handles may be used from all threads. Launches of one graph must not overlap in time,
// which the one stream sees to.
unsafe impl Send for Executable {}
// SAFETY: as above; the driver locks its graph while it is launched.
unsafe impl Sync for Executable {}

impl Graph for Executable {
    unsafe fn launch(&self) -> Result<()> {
        self.context.bind()?;
        // SAFETY: graph and stream live; the memory is the caller's promise.
        check("cuGraphLaunch", unsafe { sys::cuGraphLaunch(self.executable, self.context.stream()) })
    }
}

impl Drop for Executable {
    fn drop(&mut self) {
        // It may still run. Failures have nowhere to go.
        let _ = self.context.synchronize();
        // SAFETY: instantiated once.
        let _ = unsafe { sys::cuGraphExecDestroy(self.executable) };
    }
}
