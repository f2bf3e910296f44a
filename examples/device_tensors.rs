//! Attention weights and their gradient without a round trip: three operations, one submission, two downloads.
//!
//!     cargo run --release --example device_tensors
//!     MACHEPS_DEVICE=llvmpipe cargo run --release --example device_tensors

use macheps::{Context, MaskedRows, SoftmaxKind, SoftmaxOptions};

const HEADS: usize = 2;
const QUERIES: usize = 5;

fn main() -> macheps::Result<()> {
    let ctx = Context::new()?;
    println!("on {}: {}", ctx.choice().device.label(), ctx.choice().reason);

    let shape = [HEADS, QUERIES, QUERIES];
    let values: Vec<f32> = (0..HEADS * QUERIES * QUERIES)
        .map(|i| (i as f32 * 0.7).sin() * 8.0)
        .collect();
    // The last key is padding: one row of mask for all heads and queries.
    let padding = [0.0, 0.0, 0.0, 0.0, f32::NEG_INFINITY];
    let logits = ctx.upload(&values, &shape)?;
    let mask = ctx.upload(&padding, &[1, QUERIES])?;
    let upstream = ctx.upload(&vec![1.0f32; values.len()], &shape)?;

    let options = SoftmaxOptions {
        scale: 0.125,
        causal: Some(0),
        masked_rows: MaskedRows::Zero,
        ..Default::default()
    };
    let mut chain = ctx.chain();
    let weights = chain.softmax(SoftmaxKind::Softmax, &logits, Some(&mask), &options)?;
    let log_sums = chain.softmax(SoftmaxKind::LogSumExp, &logits, Some(&mask), &options)?;
    // Rows sum to 1 whatever the logits, so the gradient of their sum is 0.
    let gradient = chain.softmax_backward(SoftmaxKind::Softmax, &logits, Some(&mask), &upstream, &options)?;
    chain.submit()?;

    println!("weights of head 0, query by query:");
    for row in weights.download()?.chunks(QUERIES).take(QUERIES) {
        println!("  {row:.4?}");
    }
    println!(
        "log-sum-exp, shape {:?}: {:.4?}",
        log_sums.shape(),
        log_sums.download()?
    );
    let largest = gradient.download()?.iter().fold(0.0f32, |m, g| m.max(g.abs()));
    println!("largest gradient of the sum of all weights: {largest:e}");
    Ok(())
}
