"""A critic's judgement as a loss, for whatever stage makes pictures or vectors.

    objectives   what a critic and a generator minimise   penalties   what keeps a critic smooth
    critics      networks that give a score               layers      what networks here are made of
    game         the updates of the two

To add it to a stage: make a critic for what the stage makes, give `game.Game` the network, the
critic and an objective, and take `critic_update` and `generator_update` in turn.
"""
