"""Log-probs computed token by token, as a reference for faster code."""

import torch


def naive_logprob(model, prompt, reply):
    """The sum over reply tokens of log p(token | all before it), one forward pass per token."""
    total = 0.0
    for at, token in enumerate(reply):
        before = torch.tensor([[*prompt, *reply[:at]]])
        with torch.no_grad():
            logits = model(input_ids=before).logits[0, -1].double()
        total += (logits[token] - logits.exp().sum().log()).item()
    return total
