"""What the systems that PrimeNet is compared with have in common: channel masks, distillation."""
