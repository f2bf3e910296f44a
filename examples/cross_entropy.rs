//! Cross-entropy and its gradient in one go: class weights, ignored rows, label smoothing.
//!
//!     cargo run --release --example cross_entropy

use macheps::{CrossEntropyInput, CrossEntropyOptions};

fn main() -> macheps::Result<()> {
    let ctx = macheps::Context::new()?;
    // Three rows of four classes. The second row is padding: it holds NaN, and nobody is to notice.
    let nan = f32::NAN;
    let logits = [2.0f32, -1.0, 0.5, 0.0, nan, nan, nan, nan, 90.0, 89.0, -40.0, 0.0];
    let labels = [0i64, -100, 1];
    let weight = [1.0f32, 2.0, 1.0, 1.0];

    let options = CrossEntropyOptions {
        label_smoothing: 0.1,
        ..Default::default()
    };
    let input = CrossEntropyInput::new(&logits, &[3, 4], &labels).with_weight(&weight);
    // The gradient of the mean loss; upstream gradients other than 1 would be the third argument.
    let (loss, gradient) = macheps::cross_entropy_with_gradient(&ctx, &input, None, &options)?;

    println!("on {}: mean loss {}", ctx.choice().device.name, loss[0]);
    for (label, row) in labels.iter().zip(gradient.chunks(4)) {
        println!("label {label:>4}: gradient {row:9.6?}");
    }
    assert!(gradient[4..8].iter().all(|&g| g == 0.0), "ignored rows get exactly 0");

    // A label that is no class is an error that says which.
    let wrong = CrossEntropyInput::new(&logits[..4], &[1, 4], &[7i64]);
    if let Err(e) = macheps::cross_entropy(&ctx, &wrong, &options) {
        println!("refused: {e}");
    }
    Ok(())
}
