// Included by the examples in the documentation of the combinators; no module of the crate.

use std::time::Duration;

use streambreaker::memory::{self, Collect};
use streambreaker::prelude::*;
use streambreaker::{PipelineReport, Shutdown};

/// Runs a pipeline over a stream of these payloads, to its end.
async fn run<S: Stage + Send + 'static>(
    payloads: impl IntoIterator<Item = &'static str>,
    pipeline: impl Fn(Flow<Input>) -> Flow<S> + Send + Sync + 'static,
) -> PipelineReport {
    let processor = Processor::builder("example")
        .source(memory::stream(payloads))
        .faults(memory::faults())
        .pipeline("example", pipeline)
        .build()
        .expect("an example is built");
    let mut report = processor.run(Shutdown::never()).await.expect("an example runs");
    report.pipelines.remove("example").expect("the pipeline has run")
}

/// A dependency with a timeout of a second.
#[allow(dead_code)]
fn resource(name: &str) -> Resource {
    let builder = Resource::builder(name).timeout(Duration::from_secs(1));
    builder.build().expect("a name and a timeout are enough")
}
