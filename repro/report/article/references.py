"""The works that the article cites."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reference:
    """An entry of the list of references, in its order: that of the authors' names."""

    key: str
    """By which the text cites it."""
    authors: str
    title: str
    place: str
    """Where it appeared, with year and pages."""


# fmt: off
REFERENCES = (
    Reference(
        "rliable", "R. Agarwal, M. Schwarzer, P. S. Castro, A. Courville and M. G. Bellemare",
        "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
        "Advances in Neural Information Processing Systems (NeurIPS), 2021",
    ),
    Reference(
        "shrink", "J. T. Ash and R. P. Adams", "On Warm-Starting Neural Network Training",
        "Advances in Neural Information Processing Systems (NeurIPS), 2020",
    ),
    Reference(
        "cleanclip", "H. Bansal, N. Singhi, Y. Yang, F. Yin, A. Grover and K.-W. Chang",
        "CleanCLIP: Mitigating Data Poisoning Attacks in Multimodal Contrastive Learning",
        "IEEE/CVF International Conference on Computer Vision (ICCV), 2023, pp. 112–123",
    ),
    Reference(
        "webscale", "N. Carlini, M. Jagielski, C. A. Choquette-Choo, D. Paleka, W. Pearce, "
        "H. Anderson, A. Terzis, K. Thomas and F. Tramèr",
        "Poisoning Web-Scale Training Datasets is Practical", "arXiv 2302.10149, 2023",
    ),
    Reference(
        "contrastive", "N. Carlini and A. Terzis",
        "Poisoning and Backdooring Contrastive Learning",
        "International Conference on Learning Representations (ICLR), 2022. arXiv 2106.09667",
    ),
    Reference(
        "cc12m", "S. Changpinyo, P. Sharma, N. Ding and R. Soricut",
        "Conceptual 12M: Pushing Web-Scale Image-Text Pre-Training To Recognize Long-Tail Visual "
        "Concepts",
        "IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR), 2021",
    ),
    Reference(
        "autoaugment", "E. D. Cubuk, B. Zoph, D. Mané, V. Vasudevan and Q. V. Le",
        "AutoAugment: Learning Augmentation Strategies from Data",
        "IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR), 2019. "
        "arXiv 1805.09501",
    ),
    Reference(
        "imagenet", "J. Deng, W. Dong, R. Socher, L.-J. Li, K. Li and L. Fei-Fei",
        "ImageNet: A Large-Scale Hierarchical Image Database",
        "IEEE Conference on Computer Vision and Pattern Recognition (CVPR), 2009, pp. 248–255",
    ),
    Reference(
        "gradcache", "L. Gao, Y. Zhang, J. Han and J. Callan",
        "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
        "6th Workshop on Representation Learning for NLP, 2021. arXiv 2101.06983",
    ),
    Reference(
        "badnet", "T. Gu, B. Dolan-Gavitt and S. Garg",
        "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain",
        "arXiv 1708.06733, 2017",
    ),
    Reference(
        "badclip", "S. Liang, M. Zhu, A. Liu, B. Wu, X. Cao and E.-C. Chang",
        "BadCLIP: Dual-Embedding Guided Backdoor Attack on Multimodal Contrastive Learning",
        "IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR), 2024",
    ),
    Reference(
        "adamw", "I. Loshchilov and F. Hutter", "Decoupled Weight Decay Regularization",
        "International Conference on Learning Representations (ICLR), 2019",
    ),
    Reference(
        "slip", "N. Mu, A. Kirillov, D. Wagner and S. Xie",
        "SLIP: Self-supervision Meets Language-Image Pre-training",
        "European Conference on Computer Vision (ECCV), 2022, pp. 529–544",
    ),
    Reference(
        "clip", "A. Radford, J. W. Kim, C. Hallacy, A. Ramesh, G. Goh, S. Agarwal, G. Sastry, "
        "A. Askell, P. Mishkin, J. Clark and others",
        "Learning Transferable Visual Models From Natural Language Supervision",
        "International Conference on Machine Learning (ICML), 2021, pp. 8748–8763",
    ),
    Reference(
        "rescience", "N. P. Rougier, K. Hinsen and others",
        "Sustainable computational science: the ReScience initiative",
        "PeerJ Computer Science 3:e142, 2017",
    ),
    Reference(
        "cc3m", "P. Sharma, N. Ding, S. Goodman and R. Soricut",
        "Conceptual Captions: A Cleaned, Hypernymed, Image Alt-text Dataset For Automatic Image "
        "Captioning",
        "Annual Meeting of the Association for Computational Linguistics (ACL), 2018",
    ),
    Reference(
        "par", "N. D. Singh, F. Croce and M. Hein",
        "Perturb and Recover: Fine-tuning for Effective Backdoor Removal from CLIP",
        "arXiv 2412.00727, 2024",
    ),
    Reference(
        "eda", "J. Wei and K. Zou",
        "EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification "
        "Tasks",
        "EMNLP-IJCNLP, 2019, pp. 6382–6388",
    ),
    Reference(
        "roclip", "W. Yang, J. Gao and B. Mirzasoleiman",
        "Robust Contrastive Language-Image Pretraining against Data Poisoning and Backdoor Attacks",
        "Advances in Neural Information Processing Systems (NeurIPS), 2023",
    ),
    Reference(
        "safeclip", "W. Yang, J. Gao and B. Mirzasoleiman",
        "Better Safe than Sorry: Pre-training CLIP against Targeted Data Poisoning and Backdoor "
        "Attacks",
        "International Conference on Machine Learning (ICML), 2024",
    ),
)
# fmt: on
"""All but the paper itself, which the claims file names."""
