"""Adversarial losses for any stage that generates pictures or vectors.

    objectives   losses of critics and generators   penalties   constraints that smooth a critic
    critics      networks that compute scores       layers      shared layers of networks
    game         the updates of both networks

To add an adversarial loss to a stage, create a critic for the stage's output, pass the network, the
critic and an objective to `game.Game`, and alternate `critic_update` and `generator_update`.
"""
