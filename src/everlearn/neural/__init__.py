"""Networks that go on learning without forgetting: any PyTorch module as a model of the loop."""
