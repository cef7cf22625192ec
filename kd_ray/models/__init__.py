"""The networks: encoder, decoder, the recogniser made of both, decoding, checkpoint folders."""
