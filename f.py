import numpy as np
from zsad_training.measure.predict import Tally
from zsad_core.judging import PixelMetrics, curve_of_scores
m=PixelMetrics(); m.update(np.full((8,8),.3,np.float32),np.eye(8,dtype=np.uint8)); print(m.result())
m=PixelMetrics(); m.update(np.full((8,8),.3,np.float32),np.zeros((8,8),np.uint8)); print(m.result())
print(curve_of_scores(np.array([.5,.5]),np.array([.5])).metrics(), curve_of_scores(np.array([]),np.array([.1])))
# merge vs single, against sklearn
rng=np.random.default_rng(0); a,b,w=PixelMetrics(),PixelMetrics(),PixelMetrics(); S=[];T=[]
for i in range(6):
    mp=rng.random((32,32)).astype(np.float32)**3; mk=np.zeros((32,32),np.uint8); mk[5:9,5+i:12+i]=1; mp[mk>0]+=.2; mp=mp.clip(0,1)
    (a if i<2 else b).update(mp,mk); w.update(mp,mk); S.append(mp.ravel());T.append(mk.ravel())
a.merge(b); print(a.result()==w.result(), w.result())
from sklearn.metrics import roc_auc_score, average_precision_score
print(roc_auc_score(np.concatenate(T),np.concatenate(S)),average_precision_score(np.concatenate(T),np.concatenate(S)))
