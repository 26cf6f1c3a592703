"""The game: StyleGAN2-ADA generator against hybrid discriminator."""
