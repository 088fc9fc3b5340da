"""MSDNet and IMTA: networks with several exits (Huang et al., ICLR 2018; Li et al., ICCV 2019)."""
