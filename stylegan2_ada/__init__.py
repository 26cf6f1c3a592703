"""StyleGAN2-ADA: generator, discriminator, adaptive augmentation, presets and files (Karras et al. 2020, "Training
GANs with Limited Data")."""
