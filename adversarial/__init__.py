"""The game: forger (StyleGAN2-ADA generator) against detective (hybrid discriminator)."""
