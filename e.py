import itertools
from collections import defaultdict
from zsad_training.pictures.holdout import split_groups
# VisA 1cls as published: product -> goods (train+test), anomalies 000..099
n={"candle":1000,"capsules":602,"cashew":500,"chewinggum":503,"fryum":500,"macaroni1":1000,"macaroni2":1000,"pcb1":1004,"pcb2":1001,"pcb3":1006,"pcb4":1005,"pipe_fryum":500}
items=[(f"visa/{p}/Data/Images/Normal/{i:04}.JPG",(p,0)) for p,c in n.items() for i in range(c)]+[(f"visa/{p}/Data/Images/Anomaly/{i:03}.JPG",(p,1)) for p in n for i in range(100)]
hs=[{k for k,_ in split_groups(items,lambda t:t[0],lambda t:t[1],.15,s)[1]} for s in range(6)]
for i,j in itertools.combinations(range(6),2): print(i,j,round(len(hs[i]&hs[j])/len(hs[i]),2))
