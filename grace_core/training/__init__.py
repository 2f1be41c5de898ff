"""Training: the GRACE policy on TRL's GRPO trainer, and the contrastive baselines CL and SimCSE on
sentence-transformers.
"""
