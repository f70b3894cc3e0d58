use clap::Args;
use lorb_engine::Result;

/// Train an adapter on N-best lists with references
#[derive(Args)]
pub struct Train {}

impl Train {
    pub fn run(self) -> Result<()> {
        Ok(())
    }
}
