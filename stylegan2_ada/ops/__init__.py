"""The operations StyleGAN2-ADA is made of, readable and in plain PyTorch; each file is one operation."""
