//! Softmax of two rows, in three lines: on a hardware GPU if there is one, else on the CPU.
//!
//!     cargo run --release --example softmax

fn main() -> macheps::Result<()> {
    let ctx = macheps::Context::new()?;
    let y = macheps::softmax(&ctx, &[1.0f32, 2.0, 3.0, 0.0, -1000.0, 0.0], &[2, 3])?;
    println!("{y:?}");

    println!("on {}: {}", ctx.choice().device.label(), ctx.choice().reason);
    Ok(())
}
