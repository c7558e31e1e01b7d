"""How networks that were trained on ImageNet expect their images."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of values in [0, 1]
