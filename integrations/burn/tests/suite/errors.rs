//! What a caller can get wrong is an error, not a panic.

use crate::adapters::{all, exact};
use burn::tensor::{Int, IntDType, Tensor};
use macheps_burn::{CrossEntropyOptions, Csr, Error, SoftmaxKind, SoftmaxOptions, SparseMatrix};

#[test]
fn calls_that_do_not_fit() {
    for adapter in all("calls_that_do_not_fit") {
        let device = &adapter.device;
        let x = || Tensor::<2>::zeros([4, 10], device);
        let labels = |n: usize| Tensor::<1, Int>::zeros([n], device);
        let is_shape = |e: &Error| matches!(e, Error::Shape { .. });

        assert!(macheps_burn::softmax(x(), 2).is_err_and(|e| is_shape(&e)));
        let logsumexp = macheps_burn::softmax_with(x(), SoftmaxKind::LogSumExp, &SoftmaxOptions::default());
        assert!(matches!(logsumexp, Err(Error::Unsupported { .. })));
        let nan = SoftmaxOptions {
            scale: f32::NAN,
            ..Default::default()
        };
        let nan = macheps_burn::softmax_with(x(), SoftmaxKind::Softmax, &nan);
        assert!(matches!(nan, Err(Error::Option { .. })));

        let options = CrossEntropyOptions::default();
        assert!(macheps_burn::cross_entropy(x(), labels(5), &options).is_err_and(|e| is_shape(&e)));
        let weight = Tensor::<1>::ones([9], device);
        let weighted = macheps_burn::cross_entropy_weighted(x(), labels(4), weight, &options);
        assert!(weighted.is_err_and(|e| is_shape(&e)));
        let smoothed = CrossEntropyOptions {
            label_smoothing: 2.0,
            ..options
        };
        let smoothed = macheps_burn::cross_entropy(x(), labels(4), &smoothed);
        assert!(matches!(smoothed, Err(Error::Option { .. })));

        let matrix = SparseMatrix::new(device, &Csr::<f32>::identity(4).expect("small")).expect("a matrix");
        assert_eq!((matrix.shape(), matrix.entries()), ([4, 4], 4));
        assert!(macheps_burn::spmm(&matrix, Tensor::zeros([5, 2], device)).is_err_and(|e| is_shape(&e)));
    }
}

/// A device is attached with its own setup, or not at all.
#[test]
fn setups_of_other_devices() {
    let unsupported = |result: macheps_burn::Result<macheps::Gpu>| match result {
        Err(Error::Unsupported { what, reason }) => format!("{what}: {reason}"),
        other => panic!("{other:?}"),
    };
    for adapter in all("setups_of_other_devices") {
        let (device, setup) = adapter.another_device();
        let x = Tensor::<2>::zeros([2, 3], &device);
        assert!(matches!(
            macheps_burn::softmax(x.clone(), 1),
            Err(Error::Unsupported { .. })
        ));

        let message = unsupported(macheps_burn::attach(&device, &adapter.setup));
        assert!(message.contains("not this device's"), "{message}");
        assert!(macheps_burn::softmax(x.clone(), 1).is_err(), "{}", adapter.name);

        let gpu = macheps_burn::attach(&device, &setup).expect("its own");
        assert_eq!(gpu.device(), &setup.device);
        assert!(macheps_burn::softmax(x.clone(), 1).is_ok(), "{}", adapter.name);
        let again = macheps_burn::attach(&device, &setup).expect("its own");
        assert_eq!(again.device(), gpu.device());
        let message = unsupported(macheps_burn::attach(&device, &adapter.setup));
        assert!(message.contains("not this device's"), "{message}");
        // It is still the one it was.
        assert!(macheps_burn::softmax(x, 1).is_ok(), "{}", adapter.name);

        let message = unsupported(macheps_burn::attach(&exact(), &setup));
        assert!(message.contains("wgpu"), "{message}");
        device.sync().expect("a device that works");
    }
}

/// Labels of other integer types are converted; one that is no class makes its row NaN, as in macheps.
#[test]
fn labels() {
    for adapter in all("labels") {
        let device = &adapter.device;
        let x = Tensor::<2>::zeros([2, 4], device);
        let options = CrossEntropyOptions {
            reduction: macheps_burn::LossReduction::None,
            ..Default::default()
        };
        let labels = Tensor::<1, Int>::from_data([1, 9], device);
        for labels in [labels.clone(), labels.cast(IntDType::U32)] {
            let loss = macheps_burn::cross_entropy(x.clone(), labels, &options).expect("a loss");
            let loss = crate::adapters::host(&loss);
            assert!(
                (loss[0] - 4f32.ln()).abs() < 1e-6 && loss[1].is_nan(),
                "{}: {loss:?}",
                adapter.name
            );
        }
    }
}

#[test]
fn tensors_without_elements() {
    for adapter in all("tensors_without_elements") {
        let x = Tensor::<2>::zeros([0, 10], &adapter.device);
        assert_eq!(macheps_burn::softmax(x.clone(), 1).expect("a softmax").dims(), [0, 10]);
        let labels = Tensor::<1, Int>::zeros([0], &adapter.device);
        let options = CrossEntropyOptions {
            reduction: macheps_burn::LossReduction::Sum,
            ..Default::default()
        };
        let loss = macheps_burn::cross_entropy(x, labels, &options).expect("a loss");
        assert_eq!(crate::adapters::host(&loss), [0.0], "{}", adapter.name);
    }
}
