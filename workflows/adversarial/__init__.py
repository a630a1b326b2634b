"""Adversarial losses for any stage that generates images or vectors.

    objectives   losses of critics and generators   penalties   constraints that smooth a critic
    critics      networks that compute scores       layers      shared layers of networks
    trainer      the updates of both networks

To add an adversarial loss to a stage, create a critic for the stage's output, pass the network, the
critic and an objective to `trainer.AdversarialTrainer`, and alternate its `critic_update` and its
`generator_update`.
"""
