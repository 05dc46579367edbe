"""Language models that learn from preferences: policy, reward model, and the choice of questions."""
